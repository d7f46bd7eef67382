"""Training objective of a micro batch: next-token prediction, multi-token prediction and hidden z-loss.

Every term is a sum over this micro batch divided by the count of the whole batch. So the gradients of all micro batches
and processes sum to those of the batch, for any partition. The balance loss is per layer, see
`stages.train.load_balance.expert_load`.

Names: B batch, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from longcat.kernels.cross_entropy import IGNORE_INDEX
from longcat.model.config import ModelConfig
from longcat.model.mtp import targets_after_next
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.formats.windows import Batch
from longcat.stages.train.config import ObjectiveOptions
from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.rows import Rows, local_rows
from longcat.stages.train.stability.hidden_z_loss import hidden_z_loss


class Totals(NamedTuple):
    """Counts of the whole batch over all processes: targets, and targets of multi-token prediction."""

    targets: int
    mtp_targets: int


class Terms(NamedTuple):
    """`total` is the differentiable loss; `figures` are its detached terms by name."""

    total: torch.Tensor
    figures: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """Loss of a model for this process's part of the work. `look_back`: that of its embedding."""

    options: ObjectiveOptions
    config: ModelConfig
    parallel: Parallel
    look_back: int = 0

    def names(self, step: int) -> list[str]:
        """Names of the figures of a step (since initialisation), the same in every process."""
        names = ["loss"]
        if self.trains_mtp(step):
            names.append("mtp_loss")
        if self.options.hidden_z_loss:
            names.append("hidden_z_loss")
        return names

    def trains_mtp(self, step: int) -> bool:
        """Whether multi-token prediction is part of the loss at a step."""
        has_layer = self.config.num_nextn_predict_layers > 0
        return has_layer and self.options.mtp_weight > 0 and step >= self.options.mtp_start_step

    def rows(self, batch: Batch) -> Rows:
        """A micro batch on the device; document bounds stay on the CPU, which reads them."""
        ids = torch.from_numpy(batch.ids).to(self.parallel.device)
        targets = torch.from_numpy(batch.targets()).to(self.parallel.device)
        rows = local_rows(
            ids[:, :-1],
            targets,
            torch.from_numpy(batch.cu_seqlens()),
            context_rank=self.parallel.context_rank,
            context_size=self.parallel.sizes.context,
            look_back=self.look_back,
            masked=self.options.document_mask,
        )
        if batch.budgets is not None:
            rows = rows._replace(budgets_B=torch.from_numpy(batch.budgets).to(self.parallel.device))
        return rows

    def totals(self, batch: Batch, batch_size: int, step: int) -> Totals:
        """Counts of the batch, of which `batch` is this process's part; collective if needed."""
        targets = batch_size * (batch.ids.shape[1] - 1)
        if batch.trained is not None:
            targets = self._sum(int(batch.trained.sum()))
        if not self.trains_mtp(step):
            return Totals(targets, 0)
        after_next = targets_after_next(torch.from_numpy(batch.targets()), torch.from_numpy(batch.cu_seqlens()))
        return Totals(targets, self._sum(int((after_next != IGNORE_INDEX).sum())))

    def _sum(self, counted: int) -> int:
        """Sum over process groups that hold other rows."""
        return sum(control().gather(counted)) // (self.parallel.sizes.context * self.parallel.sizes.pipeline)

    def terms(
        self,
        model: LongcatFlash,
        output: BackboneOutput,
        rows: Rows,
        totals: Totals,
        step: int,
        loss_sum: torch.Tensor | None = None,
    ) -> Terms:
        """Terms of one micro batch from the model's output; `loss_sum` is that of `loss`, if known."""
        if loss_sum is None:
            loss_sum, _ = model.loss_of(output.hidden_BTD, rows.targets_BT)
        parts = {"loss": loss_sum / max(1, totals.targets)}
        total = parts["loss"]
        if self.trains_mtp(step):
            mtp_sum, _ = model.mtp_loss_of(
                output.hidden_BTD, rows.next_ids_BT, rows.next_targets_BT, rows.cu_seqlens, rows.positions_T
            )
            parts["mtp_loss"] = mtp_sum / max(1, totals.mtp_targets)
            total = total + self.options.mtp_weight * parts["mtp_loss"]
        if self.options.hidden_z_loss:
            parts["hidden_z_loss"] = hidden_z_loss(output.residual_BTD) / max(1, totals.targets)
            total = total + self.options.hidden_z_loss * parts["hidden_z_loss"]
        return Terms(total, {name: part.detach() for name, part in parts.items()})
