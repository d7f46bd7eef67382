"""Validation loss, on one or many processes."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist

from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.formats.validation_windows import ValidationWindows
from longcat.stages.train.optim.precision import ComputeModel
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.pipeline import Pipeline
from longcat.stages.train.parallel.rows import Rows, local_rows


class Evaluator:
    """Mean cross entropy in nats per token over windows, `rows` at a time, distributed over all processes."""

    def __init__(self, held: Distributed, compute: ComputeModel, validation: ValidationWindows, rows: int) -> None:
        self.held, self.compute, self.rows = held, compute, rows
        self.count = validation.tokens
        self._windows = self._share(validation)
        self._pipeline: Pipeline | None = None

    def _share(self, validation: ValidationWindows) -> ValidationWindows:
        """Windows of this process; the same number for each, padded with windows without targets."""
        data = self.held.parallel.sizes.data
        unit = data * self.rows if self.held.parallel.is_distributed else 1
        if self.held.parallel.sizes.pipeline > 1:
            unit *= self.held.parallel.sizes.pipeline
        whole = validation.padded(-len(validation.inputs) % unit)
        share = len(whole.inputs) // data
        return whole.rows(self.held.parallel.data_rank * share, (self.held.parallel.data_rank + 1) * share)

    @torch.no_grad()
    def loss(self) -> float:
        """NaN if there are no targets. Collective."""
        if not self.count:
            return math.nan
        parts = [self._rows(first) for first in range(0, len(self._windows.inputs), self.rows)]
        total = sum(self._losses(parts), torch.zeros((), dtype=torch.float64, device=self.held.parallel.device))
        if self.held.parallel.is_distributed:
            dist.all_reduce(total)
        return total.item() / self.count

    def _losses(self, parts: list[Rows]) -> list[torch.Tensor]:
        """Sum of the losses of all parts, float64."""
        if self.held.parallel.sizes.pipeline == 1:
            return [self._loss(part).double() for part in parts]

        def objective(model: LongcatFlash, output: BackboneOutput, part: Rows) -> torch.Tensor:
            return model.loss_of(output.hidden_BTD, part.targets_BT)[0]

        if self._pipeline is None:
            shape = (parts[0].ids_BT.shape[0], parts[0].ids_BT.shape[1])
            self._pipeline = Pipeline(self.held, len(parts), shape)
        return [loss.double().sum() for loss in self._pipeline.evaluate(parts, objective)]

    def _loss(self, part: Rows) -> torch.Tensor:
        return self.compute.model.loss(
            part.ids_BT, part.targets_BT, part.cu_seqlens, part.positions_T, part.previous_ids_BTN
        )[0]

    def _rows(self, first: int) -> Rows:
        parallel, part = self.held.parallel, self._windows.rows(first, first + self.rows)
        ids, targets = (torch.from_numpy(x).to(parallel.device) for x in (part.inputs, part.targets))
        bounds = part.cu_seqlens()
        return local_rows(
            ids,
            targets,
            None if bounds is None else torch.from_numpy(bounds),
            context_rank=parallel.context_rank,
            context_size=parallel.sizes.context,
            look_back=self.held.look_back,
        )
