"""One run of a model's layers, as a model with stand-ins for everything else, and the module that calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from longcat.model.moe import LayerRouting
from longcat.model.transformer import LongcatFlash, TrunkOutput
from longcat.stages.train.parallel.rows import Rows

# What a step makes smaller, of one micro batch: from the last stage's model, its output and the rows.
Objective = Callable[[LongcatFlash, TrunkOutput, Rows], torch.Tensor]
# What it makes smaller besides, of how a layer, given by number, routed one micro batch; None for nothing.
Auxiliary = Callable[[int, LayerRouting], torch.Tensor | None]


def layers_of_stage(num_layers: int, stage: int, stages: int) -> range:
    """The layers of a stage; runs that differ by one at most."""
    return range(num_layers * stage // stages, num_layers * (stage + 1) // stages)


def reduce_to_stage(model: LongcatFlash, stage: int, stages: int) -> None:
    """Drop from a whole model what other stages hold, in place; what stays keeps its name.

    The embedding belongs to the first stage; final norm, output projection and multi-token prediction to the last.
    """
    own = layers_of_stage(model.config.num_layers, stage, stages)
    dropped = [f"model.layers.{layer}" for layer in range(model.config.num_layers) if layer not in own]
    if stage > 0:
        dropped.append("model.embed_tokens")
    if stage < stages - 1:
        dropped += ["model.norm", "lm_head"]
        model.model.mtp = None
    for name in dropped:
        model.set_submodule(name, nn.Identity())


class StageModule(nn.Module):
    """Computes one stage on the micro batches that `begin` was given.

    The first stage takes token ids, the others hidden states; the last returns the objective [1], the others hidden
    states. `counts` are the slots every expert got, by number of the layer, over the micro batches since `begin`.
    """

    def __init__(self, model: LongcatFlash, stage: int, stages: int) -> None:
        super().__init__()
        self.model = model
        self.layers = layers_of_stage(model.config.num_layers, stage, stages)
        self.is_first, self.is_last = stage == 0, stage == stages - 1
        self.counts: dict[int, torch.Tensor] = {}

    def begin(self, micro_batches: Sequence[Rows], objective: Objective, auxiliary: Auxiliary | None) -> None:
        self._micro_batches, self._objective, self._auxiliary = micro_batches, objective, auxiliary
        self.counts.clear()

    def forward(self, x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """`number` [1] is that of the micro batch, on the processor."""
        rows, trunk = self._micro_batches[int(number)], self.model.model
        h_BTD: torch.Tensor = trunk.embed_tokens(x) if self.is_first else x
        positions_T = rows.positions_T
        if positions_T is None:
            positions_T = torch.arange(h_BTD.shape[1], device=h_BTD.device)
        angles_TP = self.model.angles_at(positions_T)
        chosen: list[LayerRouting] = []
        for layer in self.layers:
            h_BTD, routing = trunk.layers[layer](h_BTD, angles_TP, rows.cu_seqlens)
            h_BTD = attach(h_BTD, self._auxiliary(layer, routing) if self._auxiliary else None)
            self.counts[layer] = self.counts.get(layer, 0) + routing.counts_E
            chosen.append(routing)
        if not self.is_last:
            return h_BTD
        output = TrunkOutput(trunk.norm(h_BTD), h_BTD, tuple(chosen))
        return self._objective(self.model, output, rows).view(1)


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h_BTD: torch.Tensor, loss: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(loss)
        return h_BTD.view_as(h_BTD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (loss,) = ctx.saved_tensors
        return gradients[0], torch.ones_like(loss)


def attach(h_BTD: torch.Tensor, loss: torch.Tensor | None) -> torch.Tensor:
    """`h_BTD`, whose backward pass also makes the scalar `loss` smaller, as if it had been added to the objective."""
    if loss is None or not loss.requires_grad:
        return h_BTD
    attached_BTD: torch.Tensor = _Attach.apply(h_BTD, loss)
    return attached_BTD
