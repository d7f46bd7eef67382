"""Training errors that other stages handle."""

from longcat.pipeline.errors import LongcatError


class DivergedError(LongcatError):
    """The loss or a gradient is no longer finite."""
