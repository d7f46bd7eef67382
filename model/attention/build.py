"""Construction of the attention module that the configuration names for a slot."""

from longcat.model.attention import mla  # noqa: F401  so that building a published model imports nothing more
from longcat.model.attention.base import SequenceMixer
from longcat.model.config import ModelConfig


def build_attention(config: ModelConfig, slot: int) -> SequenceMixer:
    """Build the module of slot `slot`: `2 * layer`, `2 * layer + 1`, or `config.mtp_slot`."""
    spec = config.mixer(slot)
    built: SequenceMixer = spec.mixer(config, slot, spec.options)
    return built
