"""What can be wrong with a model's configuration or files. Every message says what, where, and what to do."""


class ModelError(ValueError):
    """A model was asked for something it cannot do."""


class ModelConfigError(ModelError):
    """A configuration is incomplete, contradicts itself or asks for something that is not built."""


class CheckpointError(ModelError):
    """A checkpoint folder is incomplete, damaged, of another layout, or of a format that may run code when loaded."""
