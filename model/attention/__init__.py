"""Kinds of attention, one module each; `attention_method` of the configuration names the kind."""

from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.config import ModelConfig

METHODS = {"MLA": MultiHeadLatentAttention}


def build_attention(config: ModelConfig, slot: int) -> MultiHeadLatentAttention:
    """The attention module of cache slot `slot` (`2 * layer` or `2 * layer + 1`)."""
    return METHODS[config.attention_method](config, slot)
