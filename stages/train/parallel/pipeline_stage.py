"""Pipeline stage: a model with placeholders for the layers of other stages, and the module that calls it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from longcat.model.layers.base import LayerOutput, run_layers
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.train.parallel.rows import Rows

# Objective of one micro batch, from the last stage's model, its output and the rows.
Objective = Callable[[LongcatFlash, BackboneOutput, Rows], torch.Tensor]
# Auxiliary loss of the output of a layer (by index) for one micro batch, or None.
Auxiliary = Callable[[int, LayerOutput], torch.Tensor | None]


def layers_of_stage(num_layers: int, stage: int, stages: int) -> range:
    """Layers of a stage; range sizes differ by at most one."""
    return range(num_layers * stage // stages, num_layers * (stage + 1) // stages)


def reduce_to_stage(model: LongcatFlash, stage: int, stages: int) -> None:
    """Remove the parts of other stages from a whole model, in place; names are kept.

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


class PipelineStageModule(nn.Module):
    """Computes one stage on the micro batches passed to `begin`.

    The first stage takes token ids, the others hidden states; the last returns the objective [1], the others hidden
    states. With gating residuals, router logits [B, T, E] are sent with hidden states. `counts` are slots per expert,
    by layer index, over the micro batches since `begin`.
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

    def forward(
        self, x: torch.Tensor, previous_BTE: torch.Tensor | None = None, *, number: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """`number` [1] is the micro batch index, on the CPU."""
        rows, backbone = self._micro_batches[int(number)], self.model.model
        budgets_B = rows.budgets_B
        if budgets_B is not None and budgets_B.ndim == 2:
            budgets_B = budgets_B[self.layers.start : self.layers.stop]
        where = self.model.context(rows.ids_BT, rows.cu_seqlens, rows.positions_T, budgets_B=budgets_B)
        h_BTD = x
        if self.is_first:
            h_BTD = self.model.embed(x, rows.cu_seqlens, rows.positions_T, rows.previous_ids_BTN)
        outputs = run_layers(
            [backbone.layers[layer] for layer in self.layers],
            h_BTD,
            where,
            previous_TE=None if previous_BTE is None else previous_BTE.flatten(0, 1),
            after=self._after_layer,
        )
        h_BTD = outputs[-1].hidden_BTD
        if not self.is_last:
            return (h_BTD, self._by_row(outputs[-1], h_BTD)) if self.model.config.gating_residual else h_BTD
        output = BackboneOutput(backbone.norm(h_BTD), h_BTD, tuple(outputs))
        return self._objective(self.model, output, rows).view(1)

    def _after_layer(self, place: int, output: LayerOutput) -> torch.Tensor:
        layer = self.layers[place]
        self.counts[layer] = self.counts.get(layer, 0) + output.routing.counts_E
        return attach(output.hidden_BTD, self._auxiliary(layer, output) if self._auxiliary else None)

    @staticmethod
    def _by_row(output: LayerOutput, h_BTD: torch.Tensor) -> torch.Tensor:
        """Router logits for the next stage, split by rows like all data sent between stages."""
        return output.routing.logits_TE.unflatten(0, h_BTD.shape[:2])


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
    """Return `h_BTD`, with a backward pass that also adds the gradient of the scalar `loss`."""
    if loss is None or not loss.requires_grad:
        return h_BTD
    attached_BTD: torch.Tensor = _Attach.apply(h_BTD, loss)
    return attached_BTD
