"""What a micro batch is trained on: the next token, and beside it multi-token prediction and the hidden z-loss.

Every term is a share of the whole batch's: sums over this micro batch, divided by what the whole batch holds. So the
gradients of all micro batches, of all processes, add up to those of the batch, whatever its partition. The balance loss
is a matter of every layer and stands in `stages.train.routing`.

Names: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from longcat.kernels.cross_entropy import IGNORE_INDEX
from longcat.model.config import ModelConfig
from longcat.model.mtp import targets_after_next
from longcat.model.transformer import LongcatFlash, TrunkOutput
from longcat.stages.train.config import ObjectiveOptions
from longcat.stages.train.group import control
from longcat.stages.train.loader import Batch
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.rows import Rows, local_rows
from longcat.stages.train.stability.hidden_z_loss import hidden_z_loss


class Totals(NamedTuple):
    """What the whole batch holds, over all processes: targets, and those of multi-token prediction."""

    targets: int
    mtp_targets: int


class Terms(NamedTuple):
    """`total` is what to take gradients of; `figures` are its parts by name, detached."""

    total: torch.Tensor
    figures: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """The loss of a model by its options, in the share of the work that `parallel` gives this process."""

    options: ObjectiveOptions
    config: ModelConfig
    parallel: Parallel

    def names(self, step: int) -> list[str]:
        """The figures of a step, counted from initialisation, the same in every process."""
        names = ["loss"]
        if self.trains_mtp(step):
            names.append("mtp_loss")
        if self.options.hidden_z_loss:
            names.append("hidden_z_loss")
        return names

    def trains_mtp(self, step: int) -> bool:
        """Whether multi-token prediction is part of the loss at that step."""
        has_layer = self.config.num_nextn_predict_layers > 0
        return has_layer and self.options.mtp_weight > 0 and step >= self.options.mtp_start_step

    def rows(self, batch: Batch) -> Rows:
        """A micro batch as the model takes it; bounds of documents stay on the processor, which reads them."""
        ids = torch.from_numpy(batch.ids).to(self.parallel.device)
        bounds, sizes = torch.from_numpy(batch.cu_seqlens()), self.parallel.sizes
        place = {"context_rank": self.parallel.context_rank, "context_size": sizes.context}
        rows = local_rows(ids[:, :-1], ids[:, 1:], bounds, **place)
        return rows if self.options.document_mask else rows._replace(cu_seqlens=None)

    def totals(self, batch: Batch, batch_size: int, step: int) -> Totals:
        """What the batch of which `batch` is this process's share holds; collective where it has to be counted."""
        targets = batch_size * (batch.ids.shape[1] - 1)
        if not self.trains_mtp(step):
            return Totals(targets, 0)
        after_next = targets_after_next(torch.from_numpy(batch.ids)[:, 1:], torch.from_numpy(batch.cu_seqlens()))
        counted = control().gather(int((after_next != IGNORE_INDEX).sum()))
        return Totals(targets, sum(counted) // (self.parallel.sizes.context * self.parallel.sizes.pipeline))

    def terms(
        self,
        model: LongcatFlash,
        output: TrunkOutput,
        rows: Rows,
        totals: Totals,
        step: int,
        loss_sum: torch.Tensor | None = None,
    ) -> Terms:
        """The terms of one micro batch from the model's output; `loss_sum` is that of `loss`, if it is known."""
        if loss_sum is None:
            loss_sum, _ = model.loss_of(output.hidden_BTD, rows.targets_BT)
        parts = {"loss": loss_sum / totals.targets}
        total = parts["loss"]
        if self.trains_mtp(step):
            mtp_sum, _ = model.mtp_loss_of(
                output.hidden_BTD, rows.next_ids_BT, rows.next_targets_BT, rows.cu_seqlens, rows.positions_T
            )
            parts["mtp_loss"] = mtp_sum / max(1, totals.mtp_targets)
            total = total + self.options.mtp_weight * parts["mtp_loss"]
        if self.options.hidden_z_loss:
            parts["hidden_z_loss"] = hidden_z_loss(output.residual_BTD) / totals.targets
            total = total + self.options.hidden_z_loss * parts["hidden_z_loss"]
        return Terms(total, {name: part.detach() for name, part in parts.items()})
