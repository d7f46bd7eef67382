"""Per-layer auxiliary losses of a step: the balance loss and the losses of token mixers."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longcat.model.config import ModelConfig
from longcat.model.layers.base import LayerOutput
from longcat.stages.train.load_balance.expert_load import RoutingObserver


def mixer_losses(config: ModelConfig) -> tuple[str, ...]:
    """Sorted names of the losses of a model's token mixers, the same in every process."""
    if config.default_attention:
        return ()
    return tuple(sorted({name for spec in config.mixers for name in spec.losses}))


class AuxiliaryLosses:
    """Called with the output of every layer of every micro batch; returns the loss to add, or None.

    `names` are the mixers' losses, each a sum over tokens divided by the step's `targets`. `of_mixers` are their
    detached sums over all calls.
    """

    def __init__(self, observer: RoutingObserver, names: Sequence[str], targets: int) -> None:
        self.observer = observer
        self.of_mixers: dict[str, torch.Tensor] = {}
        self._names, self._targets = names, targets

    def __call__(self, layer: int, output: LayerOutput) -> torch.Tensor | None:
        total = self.observer(layer, output.routing)
        for name in self._names:
            if name not in output.losses:
                continue
            share = output.losses[name] / self._targets
            if share.requires_grad:
                total = share if total is None else total + share
            seen = self.of_mixers.get(name)
            self.of_mixers[name] = share.detach().double() + (0.0 if seen is None else seen)
        return total
