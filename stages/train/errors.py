"""Errors of training that other stages tell apart."""

from longcat.pipeline.errors import LongcatError


class DivergedError(LongcatError):
    """The loss or a gradient is no longer finite."""
