"""Validation loss, on one or many processes."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.distributed as dist

from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.formats.windows import IGNORED, Ids
from longcat.stages.train.optim.precision import ComputeModel
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.pipeline import Pipeline
from longcat.stages.train.parallel.rows import Rows, local_rows
from longcat.stages.train.training_plan import Validation


class Evaluator:
    """Mean cross entropy in nats per token over windows, `rows` at a time, distributed over all processes."""

    def __init__(self, held: Distributed, compute: ComputeModel, validation: Validation, rows: int) -> None:
        self.held, self.compute, self.rows = held, compute, rows
        self.count = int((validation.targets != IGNORED).sum())
        self._inputs, self._targets = self._share(validation)
        self._pipeline: Pipeline | None = None

    def _share(self, validation: Validation) -> tuple[Ids, Ids]:
        """Windows of this process; the same number for each, padded with windows without targets."""
        data, windows = self.held.parallel.sizes.data, len(validation.inputs)
        unit = data * self.rows if self.held.parallel.is_distributed else 1
        if self.held.parallel.sizes.pipeline > 1:
            unit *= self.held.parallel.sizes.pipeline
        missing = -windows % unit
        inputs = np.pad(validation.inputs, ((0, missing), (0, 0)))
        targets = np.pad(validation.targets, ((0, missing), (0, 0)), constant_values=IGNORED)
        share = len(inputs) // data
        mine = slice(self.held.parallel.data_rank * share, (self.held.parallel.data_rank + 1) * share)
        return inputs[mine], targets[mine]

    @torch.no_grad()
    def loss(self) -> float:
        """NaN if there are no targets. Collective."""
        if not self.count:
            return math.nan
        parts = [self._rows(first) for first in range(0, len(self._inputs), self.rows)]
        total = sum(self._losses(parts), torch.zeros((), dtype=torch.float64, device=self.held.parallel.device))
        if self.held.parallel.is_distributed:
            dist.all_reduce(total)
        return total.item() / self.count

    def _losses(self, parts: list[Rows]) -> list[torch.Tensor]:
        """Sum of the losses of all parts, float64."""
        if self.held.parallel.sizes.pipeline == 1:
            model = self.compute.model
            return [model.loss(part.ids_BT, part.targets_BT, None, part.positions_T)[0].double() for part in parts]

        def objective(model: LongcatFlash, output: BackboneOutput, part: Rows) -> torch.Tensor:
            return model.loss_of(output.hidden_BTD, part.targets_BT)[0]

        if self._pipeline is None:
            shape = (parts[0].ids_BT.shape[0], parts[0].ids_BT.shape[1])
            self._pipeline = Pipeline(self.held, len(parts), shape)
        return [loss.double().sum() for loss in self._pipeline.evaluate(parts, objective)]

    def _rows(self, first: int) -> Rows:
        parallel = self.held.parallel
        part = slice(first, first + self.rows)
        ids, targets = (torch.from_numpy(x[part]).to(parallel.device) for x in (self._inputs, self._targets))
        rows = local_rows(ids, targets, context_rank=parallel.context_rank, context_size=parallel.sizes.context)
        return rows._replace(cu_seqlens=None)
