"""What a micro batch is trained on: the next token, and beside it multi-token prediction and the auxiliary losses.

Every term is a share of the whole batch's: sums over this micro batch, divided by what the whole batch holds. So the
gradients of all micro batches, of all processes, add up to those of the batch, whatever its partition.

Names: B batch, T tokens, L layers, E experts of both kinds, N experts with a network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from kernels.cross_entropy import IGNORE_INDEX
from model.moe import LayerRouting
from model.mtp import targets_after_next
from model.transformer import LongcatFlash, TrunkOutput
from stages.train.config import ObjectiveOptions
from stages.train.loader import Batch

# A loss of one layer's routing that is already a share of the batch, or nothing.
AuxiliaryLoss = Callable[[int, LayerRouting], torch.Tensor]


@dataclass(frozen=True)
class Rows:
    """A micro batch on its device: inputs and targets [B, T], documents' bounds."""

    input_ids_BT: torch.Tensor
    targets_BT: torch.Tensor
    cu_seqlens: torch.Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> Rows:
        ids = torch.from_numpy(batch.ids).to(device)
        return cls(ids[:, :-1], ids[:, 1:], torch.from_numpy(batch.cu_seqlens()).to(device))


class Totals(NamedTuple):
    """What the whole batch holds: targets, targets of multi-token prediction, tokens."""

    targets: int
    mtp_targets: int
    tokens: int

    @classmethod
    def of(cls, batch: Batch) -> Totals:
        targets = torch.from_numpy(batch.ids)[:, 1:]
        after_next = targets_after_next(targets, torch.from_numpy(batch.cu_seqlens()))
        return cls(targets.numel(), int((after_next != IGNORE_INDEX).sum()), targets.numel())


class Terms(NamedTuple):
    """`total` is what to take gradients of; `figures` are its parts by name, detached; `output` the model's."""

    total: torch.Tensor
    figures: dict[str, torch.Tensor]
    output: TrunkOutput


@dataclass(frozen=True)
class Objective:
    """The loss by its options; `auxiliary` are losses of the routing of a layer, by name."""

    options: ObjectiveOptions
    auxiliary: dict[str, AuxiliaryLoss]

    def __call__(self, model: LongcatFlash, rows: Rows, totals: Totals, step: int) -> Terms:
        """The terms of one micro batch at optimizer step `step`, counted from initialisation."""
        bounds = rows.cu_seqlens if self.options.document_mask else None
        loss_sum, _, output = model.loss(rows.input_ids_BT, rows.targets_BT, bounds)
        parts = {"loss": loss_sum / totals.targets}
        total = parts["loss"]
        if self.trains_mtp(model, step):
            mtp_sum, _ = model.mtp_loss(output.hidden_BTD, rows.input_ids_BT, rows.targets_BT, rows.cu_seqlens)
            parts["mtp_loss"] = mtp_sum / max(1, totals.mtp_targets)
            total = total + self.options.mtp_weight * parts["mtp_loss"]
        if self.options.hidden_z_loss:
            parts["hidden_z_loss"] = hidden_z_loss(output.residual_BTD) / totals.tokens
            total = total + self.options.hidden_z_loss * parts["hidden_z_loss"]
        for name, loss in self.auxiliary.items():
            parts[name] = torch.stack([loss(index, routing) for index, routing in enumerate(output.routing)]).sum()
            total = total + parts[name]
        return Terms(total, {name: part.detach() for name, part in parts.items()}, output)

    def trains_mtp(self, model: LongcatFlash, step: int) -> bool:
        """Whether multi-token prediction is part of the loss at that step."""
        has_layer = model.config.num_nextn_predict_layers > 0
        return has_layer and self.options.mtp_weight > 0 and step >= self.options.mtp_start_step


def hidden_z_loss(residual_BTD: torch.Tensor) -> torch.Tensor:
    """Sum over tokens of `(log sum_i exp |z_i|)^2`, z the hidden states before the final norm (report, eq. 10)."""
    return residual_BTD.float().abs().logsumexp(dim=-1).square().sum()
