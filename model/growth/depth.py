"""What a deeper model multiplies its matrices by where initial values depend on the depth (`Layer.initial_scale`).

A layout may scale the initial values of a matrix with the number of layers. A matrix W of the small model then becomes
r W, with r the scale of the grown model over that of the small one, as if the grown model had been made with those
values. Gradients become 1 / r times theirs: so do first moments, and second moments by the square.
"""

from __future__ import annotations

import re

from longcat.model.config import ModelConfig
from longcat.model.growth.layers import DEGREES
from longcat.model.layers.build import layer_class

_LAYER_KEY = re.compile(r"model\.layers\.\d+\.(.+)")


class DepthScale:
    """Divisors for the tensors of a model of `small` that grows to one of `grown`."""

    def __init__(self, small: ModelConfig, grown: ModelConfig) -> None:
        self._small, self._grown = small, grown

    def divisor(self, name: str) -> float:
        """Divisor of the parameter, published tensor or moment `name`: 1 / r, or a power of r for moments."""
        match = _LAYER_KEY.fullmatch(name)
        if match is None:
            return 1.0
        key, _, suffix = match[1].rpartition(".")
        if suffix in DEGREES:
            return float(self._ratio(key) ** DEGREES[suffix])
        return 1 / self._ratio(match[1])

    def _ratio(self, key: str) -> float:
        layer = layer_class(self._small)
        return layer.initial_scale(self._grown, key) / layer.initial_scale(self._small, key)
