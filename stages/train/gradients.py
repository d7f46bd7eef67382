"""Gradients of one batch: micro batches forward and backward, on one or many processes, with measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from longcat.model.accounting import AttentionFlops
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.formats.windows import Batch
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.load_balance.auxiliary import AuxiliaryLosses, mixer_losses
from longcat.stages.train.load_balance.expert_load import Balance, Load, RoutingObserver
from longcat.stages.train.objective import Objective, Terms, Totals
from longcat.stages.train.optim.precision import ComputeModel
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.pipeline import Pipeline
from longcat.stages.train.parallel.reduce import sum_statistics
from longcat.stages.train.parallel.rows import Rows
from longcat.stages.train.stability.corruption import LayerRecording, layer_to_check
from longcat.stages.train.stability.measure import due, largest_activations, layer_figures, parameter_figures
from longcat.stages.train.stability.router_gradients import RouterGradients, scaled
from longcat.stages.train.training_plan import TrainingPlan

ATTENTION = "attention_flops"


@dataclass(frozen=True)
class Taken:
    """Loss terms, expert load and measurements of a batch; the gradients are in the parameters.

    `figures` and `load` cover the whole batch and are the same in every process; `stability` is None in most steps.
    `attention_flops` are those of a forward pass over the batch.
    """

    figures: dict[str, float]
    load: Load
    stability: dict[str, Any] | None
    attention_flops: float


class BatchGradients:
    """Computes gradients of batches; `grad` is empty before, complete and unclipped after."""

    def __init__(
        self,
        plan: TrainingPlan,
        options: TrainingOptions,
        held: Distributed,
        compute: ComputeModel,
        balance: Balance | None,
    ) -> None:
        self.plan, self.options, self.held, self.compute, self.balance = plan, options, held, compute, balance
        self.parallel, self.config = held.parallel, held.config
        self.objective = Objective(options.objective, held.config, held.parallel, held.look_back)
        self.mixer_losses = mixer_losses(held.config)
        self._pipeline: Pipeline | None = None
        self._attention = AttentionFlops(held.config)

    def take(self, batch: Batch, step: int) -> Taken:
        """Compute gradients of the batch, of which `batch` is this process's part, at step `step` since initialisation.

        Collective.

        Raises:
            LongcatError: a recomputed layer differs.
        """
        totals = self.objective.totals(batch, self.plan.batch_size, step)
        micro = self.plan.micro_batch_size
        parts = [batch.rows(first, first + micro) for first in range(0, len(batch.ids), micro)]
        since_start = step - 1 - self.plan.before.step
        moves = self.balance is not None and self.balance.coefficient.moves(step - 1, since_start)
        measured = moves or due(self.options.stability.every, step - 1, since_start)
        watched = self.balance is not None and measured
        gradients = RouterGradients(self.config, self.parallel.device) if watched else None
        everywhere = -(-self.plan.batch_size // micro)
        observer = RoutingObserver(self.config, self.parallel, self.balance, everywhere, gradients)
        with ExitStack() as stack:
            largest = stack.enter_context(largest_activations(self.compute.layers)) if measured else {}
            recording = self._recording(step - 1)
            auxiliary = AuxiliaryLosses(observer, self.mixer_losses, max(1, totals.targets))
            terms = self._run(parts, totals, step, auxiliary, recording)
        if recording is not None:
            recording.compare(step)
        figures, load = self._sums(terms, auxiliary, step, self._attention_flops(batch, step))
        attention = figures.pop(ATTENTION)
        found = self._measurements(largest, gradients, moves=moves) if measured else None
        return Taken(figures, load, found, attention)

    def _attention_flops(self, batch: Batch, step: int) -> int:
        """Those of this process's rows, counted in one of the processes that share them."""
        if self.parallel.context_rank or self.parallel.pipeline_rank:
            return 0
        rows, width = batch.ids.shape
        masked = self.options.objective.document_mask
        lengths = np.diff(batch.cu_seqlens()).tolist() if masked else [width - 1] * rows
        return self._attention.of(lengths, mtp=self.objective.trains_mtp(step))

    def _recording(self, done: int) -> LayerRecording | None:
        number = layer_to_check(self.options.stability.corruption_every, done, self.config.num_layers)
        layer = self.compute.layers.get(number) if number is not None else None
        return None if layer is None or number is None else LayerRecording(layer, number)

    def _run(
        self,
        parts: Sequence[Batch],
        totals: Totals,
        step: int,
        auxiliary: AuxiliaryLosses,
        recording: LayerRecording | None,
    ) -> list[Terms]:
        if self.parallel.sizes.pipeline > 1:
            return self._run_pipeline(parts, totals, step, auxiliary, recording)
        model, terms = self.compute.model, []
        for number, part in enumerate(parts):
            with ExitStack() as stack:
                if recording is not None and number == 0:
                    stack.enter_context(recording)
                rows = self.objective.rows(part)
                loss_sum, _, output = model.loss(
                    rows.ids_BT,
                    rows.targets_BT,
                    rows.cu_seqlens,
                    rows.positions_T,
                    previous_ids_BTN=rows.previous_ids_BTN,
                    budgets_B=rows.budgets_B,
                )
                found = self.objective.terms(model, output, rows, totals, step, loss_sum)
                losses = [auxiliary(layer, given) for layer, given in enumerate(output.layers)]
                total = found.total
                for loss in losses:
                    total = total if loss is None else total + loss
                total.backward()
            self.compute.collect_gradients()
            terms.append(Terms(total.detach(), found.figures))
        return terms

    def _run_pipeline(
        self,
        parts: Sequence[Batch],
        totals: Totals,
        step: int,
        auxiliary: AuxiliaryLosses,
        recording: LayerRecording | None,
    ) -> list[Terms]:
        terms: list[Terms] = []

        def objective(model: LongcatFlash, output: BackboneOutput, rows: Rows) -> torch.Tensor:
            found = self.objective.terms(model, output, rows, totals, step)
            terms.append(Terms(found.total.detach(), found.figures))
            return found.total

        rows = [self.objective.rows(part) for part in parts]
        if self._pipeline is None:
            shape = (rows[0].ids_BT.shape[0], rows[0].ids_BT.shape[1])
            self._pipeline = Pipeline(self.held, len(rows), shape)
        with ExitStack() as stack:
            if recording is not None:
                stack.enter_context(recording)
            self._pipeline.step(rows, objective, auxiliary)
        return terms

    def _sums(
        self, terms: Sequence[Terms], auxiliary: AuxiliaryLosses, step: int, attention_flops: int
    ) -> tuple[dict[str, float], Load]:
        """Reduce figures and load over all processes, in one message."""
        observer = auxiliary.observer
        nothing = torch.zeros((), dtype=torch.float64, device=self.parallel.device)
        sums: dict[str, float | torch.Tensor] = {
            name: sum((part.figures[name].double() for part in terms), nothing) for name in self.objective.names(step)
        }
        sums |= {name: auxiliary.of_mixers.get(name, nothing) for name in self.mixer_losses}
        if self.balance is not None:
            sums["balance_loss"] = observer.balance_loss
        sums[ATTENTION] = float(attention_flops)
        layers = range(self.config.num_layers)
        squares: dict[str, float | torch.Tensor] = {str(layer): observer.squares.get(layer, 0.0) for layer in layers}
        counts_LE, all_sums = sum_statistics(self.parallel, len(layers), observer.counts, sums | squares)
        load = Load(counts_LE, [all_sums[str(layer)] for layer in layers], self.config.n_routed_experts)
        return {name: all_sums[name] for name in sums}, load

    def _measurements(
        self, largest: Mapping[int, torch.Tensor], gradients: RouterGradients | None, *, moves: bool
    ) -> dict[str, Any]:
        """The `stability` object of a record; `moves`: also update an automatic coefficient."""
        layers = self.config.num_layers
        routers = {number: layer.get_submodule("mlp.router") for number, layer in self.held.layer_modules().items()}
        found: dict[str, Any] = layer_figures(routers, largest, layers, self._reduce(dist.ReduceOp.MAX))
        add = self._reduce(dist.ReduceOp.SUM)
        found |= parameter_figures(self.held, layers, self.options.stability.layer_groups, add)
        if gradients is not None and self.balance is not None:
            ratios = gradients.unit_ratios(add)
            found["balance_gradient_ratio"] = scaled(ratios, self.balance.coefficient.value)
            if moves:
                self.balance.coefficient.update(ratios)
        return found

    def _reduce(self, operation: Any) -> Any:
        if not self.parallel.is_distributed:
            return None

        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            dist.all_reduce(tensor, op=operation)
            return tensor

        return reduce
