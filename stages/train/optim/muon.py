"""Muon (Jordan et al. 2024): momentum, orthogonalised matrix by matrix.

    m <- momentum m + (1 - momentum) g
    u  = orthogonalize(m), or with nesterov of momentum m + (1 - momentum) g
    W <- W - rate (scale u + decay W)

Every update of a matrix [M, N] has all its singular values near one, so its elements have a root mean square of
1 / sqrt(max(M, N)). `scale` is

    rms        0.2 sqrt(max(M, N)): elements of 0.2, which is what AdamW's updates have, so that its learning rate and
               decay carry over (Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2)
    spectral   sqrt(max(1, M / N)): a spectral norm that changes the outputs of a layer by the same amount at every
               width (Jordan et al. 2024; Bernstein and Newhouse 2025)

The experts of a stack are matrices of their own, as are the gate and up projections in it, and with `per_head` the
heads of the projections from latents to queries, keys and values (GLM-5 report, "Muon Split"). LongCat-2.0 is reported
to be trained with Muon; its settings are not published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from longcat.model.matrices import Matrices
from longcat.stages.train.optim.cautious import decay
from longcat.stages.train.optim.joined import JoinedOptimizer
from longcat.stages.train.optim.newton_schulz import orthogonalize_all
from longcat.stages.train.parallel.state import local_part
from longcat.stages.train.parallel.whole_matrices import map_whole

RMS = 0.2


@dataclass(frozen=True)
class Update:
    """How a momentum becomes an update; `dtype` is that of the products."""

    steps: int
    scale: str
    dtype: torch.dtype

    def __call__(self, momenta: Sequence[torch.Tensor], matrices: Sequence[Matrices]) -> list[torch.Tensor]:
        """Updates of tensors [..., M, N] of whole matrices, which may be of different shapes."""
        updates = [torch.empty_like(momentum) for momentum in momenta]
        sources, targets = (
            [part for x, own in zip(tensors, matrices, strict=True) for part in own.of(x)]
            for tensors in (momenta, updates)
        )
        orthogonal = orthogonalize_all(sources, self.steps, self.dtype)
        for target, source in zip(targets, orthogonal, strict=True):
            torch.mul(source, self.factor(*source.shape[-2:]), out=target)
        return updates

    def factor(self, rows: int, columns: int) -> float:
        """Factor on the orthogonal matrix."""
        return RMS * math.sqrt(max(rows, columns)) if self.scale == "rms" else math.sqrt(max(1.0, rows / columns))


class Muon(JoinedOptimizer):
    """Muon for its own groups; see `optim.joined`. Collective if parameters are sharded.

    Own groups have `momentum`, `nesterov`, `decay`, `cautious`, `update` (an `Update`) and `matrices` by parameter.
    """

    def update(self, group: Mapping[str, Any]) -> None:
        members = [parameter for parameter in group["params"] if parameter.grad is not None]
        momentum = partial(self._momentum, group)
        for parameter, update in map_whole(members, momentum, group["matrices"], group["update"]):
            x = local_part(parameter)[0]
            decay(x, update, group["lr"] * group["decay"], cautious=group["cautious"])
            x.add_(update, alpha=-group["lr"])

    def _momentum(self, group: Mapping[str, Any], parameter: nn.Parameter) -> torch.Tensor:
        """Local part of what is orthogonalised."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None  # noqa: S101  `step` takes only those with one
        gradient, average = local_part(parameter.grad)[0], local_part(state["momentum"])[0]
        average.lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
