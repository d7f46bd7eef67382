"""Assignment of layers when a model grows in depth; no torch.

LongCat-Flash report, section 2.3.2: L_target = L_small o L_small, here the order `stack`. Everything outside the layers
is copied: embeddings, final norm, multi-token prediction, output projection. Other orders: Chang et al. 2018, Gong et
al. 2019, Du et al. 2024 (interleaving and stacking), Kim et al. 2023 (repeating a part of the layers).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.mixers import MAX_PATTERN, shortest_pattern

Order = Literal["stack", "interleave"]
Moments = Literal["copy", "rescale"]
# Degree of a moment in the gradient.
DEGREES = {"exp_avg": 1, "exp_avg_sq": 2, "momentum": 1}
# The norm of embeddings that some layouts have in their first layer only.
_FIRST_LAYER = "embedding_norm."
_LAYER_KEY = re.compile(r"model\.layers\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Growth:
    """`layers[i]` is the layer of the small model, of `num_layers`, that is copied into layer i of the grown one."""

    num_layers: int
    layers: tuple[int, ...]

    @classmethod
    def of(cls, num_layers: int, factor: int, order: Order = "stack", part: tuple[int, int] | None = None) -> Growth:
        """Layers `part[0]` to `part[1] - 1` (None: all) `factor` times, the others once.

        `stack` repeats the part as a whole (0 1 2 0 1 2), `interleave` every layer by itself (0 0 1 1 2 2).

        Raises:
            ModelError: `factor` is below 1, or the part is empty or beyond the layers.
        """
        start, stop = (0, num_layers) if part is None else part
        if factor < 1:
            raise ModelError(f"factor = {factor}: expected an integer of at least 1")
        if not 0 <= start < stop <= num_layers:
            raise ModelError(
                f"range = {start}:{stop} is not a part of the {num_layers} layers; expected a:b with 0 <= a < b <= "
                f"{num_layers}, for the layers a to b - 1 counted from 0"
            )
        repeated = range(start, stop)
        middle = [*repeated] * factor if order == "stack" else [layer for layer in repeated for _ in range(factor)]
        return cls(num_layers, (*range(start), *middle, *range(stop, num_layers)))

    def names(self, names: Iterable[str]) -> dict[str, str]:
        """Source name by name in the grown model.

        Names start with that of a parameter, with any suffix; those outside the layers are kept.

        Raises:
            ModelError: a name belongs to a layer that the small model does not have.
        """
        targets: dict[int, list[int]] = {}
        for target, source in enumerate(self.layers):
            targets.setdefault(source, []).append(target)
        grown: dict[str, str] = {}
        for name in names:
            match = _LAYER_KEY.fullmatch(name)
            if match is None:
                grown[name] = name
                continue
            if int(match[1]) not in targets:
                raise ModelError(f"{name}: a model of {self.num_layers} layers has no layer {match[1]}")
            copies = [0] if match[2].startswith(_FIRST_LAYER) else targets[int(match[1])]
            grown |= {f"model.layers.{target}.{match[2]}": name for target in copies}
        return grown

    def divisor(self, source: str, moments: Moments) -> float:
        """Divisor of the moment `source` (a parameter's name and `.exp_avg`, `.exp_avg_sq`, `.step` or `.momentum`).

        `rescale` takes the gradient of each of n copies for an n-th of the gradient of their source: first moments are
        divided by n, so that those of all copies sum to that of the source, and second moments by the square of n.
        """
        match = _LAYER_KEY.fullmatch(source)
        if moments == "copy" or match is None or match[2].startswith(_FIRST_LAYER):
            return 1.0
        degree = DEGREES.get(source.rpartition(".")[2], 0)
        return float(self.layers.count(int(match[1])) ** degree)

    def config(self, config: ModelConfig) -> ModelConfig:
        """Configuration of the grown model, in which every copy of a layer keeps its attention kinds.

        Raises:
            ModelError: the model would be too large, or its pattern of attention kinds too long.
        """
        changes: dict[str, Any] = {"num_layers": len(self.layers)}
        if config.attention is not None and len(config.mixers) > 1:  # a plan does not import torch
            changes["attention"] = self._attention(config)
        return ModelConfig.from_dict(config.model_dump() | changes, source="the grown model")

    def _attention(self, config: ModelConfig) -> Any:
        """The pattern, or another one if repeating it would give a copy of a layer other kinds."""
        pattern, slots = config.mixers, [2 * layer + side for layer in self.layers for side in (0, 1)]
        wanted = [pattern[slot % len(pattern)] for slot in slots]
        if all(kind == pattern[slot % len(pattern)] for slot, kind in enumerate(wanted)):
            return config.attention
        if (found := shortest_pattern(wanted)) is not None:
            return found
        raise ModelError(
            f"the attention kinds of the grown model repeat after more than {MAX_PATTERN} slots, the longest pattern; "
            "repeat all layers in the order stack, or train with a shorter pattern"
        )
