"""Construction of layers of the kind named by `moe_layout`."""

from longcat.model.config import ModelConfig
from longcat.model.layers.base import Layer
from longcat.model.layers.interleaved import InterleavedLayer
from longcat.model.layers.post_norm import PostNormLayer
from longcat.model.layers.shortcut import ShortcutLayer
from longcat.model.layers.span import SpanLayer

LAYOUTS: dict[str, type[Layer]] = {
    "shortcut": ShortcutLayer,
    "interleaved": InterleavedLayer,
    "span": SpanLayer,
    "post": PostNormLayer,
}


def layer_class(config: ModelConfig) -> type[Layer]:
    """Class of all layers of a model."""
    return LAYOUTS[config.moe_layout]


def build_layer(config: ModelConfig, index: int) -> Layer:
    """Build layer `index` of a model."""
    return layer_class(config)(config, index)
