"""Load balance of a run: the plan of a step, its batches and budgets, and figures of both."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from longcat.stages.formats.windows import Batch, Ids, Window, WindowSource, stacked
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.gradients import BatchGradients, Taken
from longcat.stages.train.sparse_balance.assignment import Floats, imbalance, in_order, longest_first
from longcat.stages.train.sparse_balance.budgets import OWN, RATIOS, anchor_of, candidates, choose
from longcat.stages.train.sparse_balance.check import check_balance
from longcat.stages.train.sparse_balance.clock import AttentionClock, measured_imbalance
from longcat.stages.train.sparse_balance.coverage import BUCKETS, Coverage, measuring
from longcat.stages.train.sparse_balance.latency import LatencyModel, pairs, terms
from longcat.stages.train.sparse_balance.profile import latency_model
from longcat.stages.train.training_plan import TrainingPlan

STEPS_KEPT = 8  # plans of steps that are being prefetched


@dataclass(frozen=True)
class StepPlan:
    """Windows of a step, by their number in the batch.

    windows: [groups, rounds]. lengths: documents of every window in the batch. own: budgets of windows that have one.
    costs: predicted, [batch size].
    """

    windows: Ids
    lengths: tuple[Ids, ...]
    own: tuple[int | None, ...]
    costs: Floats


@dataclass(frozen=True)
class Moved:
    """Budgets [layers, groups, rounds] of a step, relative to those of the model; what they take, and lose at most."""

    budgets: Ids
    ratios: Floats
    seconds: Floats
    coverage_loss: float


class Balancer:
    """Plans steps for all processes alike; see `stages.train.sparse_balance`.

    groups: groups of processes among which windows are planned. length: tokens of a window. latency: None if nothing is
    predicted by it.
    """

    def __init__(
        self,
        options: TrainingOptions,
        data: WindowSource,
        *,
        batch_size: int,
        groups: int,
        length: int,
        layers: int,
        latency: LatencyModel | None,
    ) -> None:
        self.options, self.latency = options.sparse_balance, latency
        self.batch_size, self.groups, self._length = batch_size, groups, length
        self._data, self._masked = data, options.objective.document_mask
        self.coverage = Coverage(layers, self.options.coverage_decay)
        self.plan = lru_cache(STEPS_KEPT)(self._plan)

    def _plan(self, first_sample: int) -> StepPlan:
        samples = [self._data.sample(first_sample + place) for place in range(self.batch_size)]
        lengths = tuple(self._documents(sample) for sample in samples)
        own = tuple(sample.budget for sample in samples)
        costs = np.array([self._cost(*window) for window in zip(lengths, own, strict=True)])
        if self.options.assign == "none":
            return StepPlan(in_order(self.batch_size, self.groups), lengths, own, costs)
        return StepPlan(longest_first(costs, self.groups), lengths, own, costs)

    def _documents(self, sample: Window) -> Ids:
        """Lengths of the documents of a sample that attention keeps apart."""
        if not self._masked:
            return np.array([self._length], dtype=np.int64)
        lengths: Ids = np.diff(sample.starts, append=self._length)
        return lengths

    def _cost(self, lengths: Ids, budget: int | None) -> float:
        if self.latency is None or self.options.assign == "length":
            return float(pairs(lengths).sum())
        return self.latency.seconds(lengths, budget)

    def batch(self, first_sample: int, share: range) -> Batch:
        """The rows `share` of a step, in the order of its plan."""
        rows = self.plan(first_sample).windows.reshape(-1)[share.start : share.stop]
        return stacked([self._data.sample(first_sample + row) for row in rows.tolist()])

    def moved(self, plan: StepPlan) -> Moved:
        """Budgets of all windows of a step, from what is known of the coverage; windows with their own keep it."""
        anchor_name = self.options.budgets
        assert self.latency is not None and anchor_name != "fixed"  # noqa: S101
        layers = len(self.latency.budgets)
        shape = layers, *plan.windows.shape
        budgets, ratios, seconds = np.empty(shape, dtype=np.int64), np.empty(shape), np.empty(shape)
        worst = 0.0
        for layer, (own, _) in enumerate(self.latency.budgets):
            assert own is not None  # noqa: S101  checked before the first step
            offered = candidates(own)
            seconds_WR = self._seconds(layer, offered, plan)
            for turn, windows in enumerate(plan.windows.T):
                anchor = anchor_of(seconds_WR[windows, OWN], anchor_name)
                for group, window in enumerate(windows):
                    place = layer, group, turn
                    if (kept := plan.own[window]) is not None:
                        budgets[place], ratios[place], seconds[place] = kept, kept / own, seconds_WR[window, OWN]
                        continue
                    covered_R = self.coverage.of(layer, plan.lengths[window])
                    chosen = choose(seconds_WR[window], covered_R, anchor, self.options.coverage_loss)
                    if chosen < OWN:
                        worst = max(worst, float(covered_R[OWN] - covered_R[chosen]))
                    budgets[place], ratios[place] = offered[chosen], RATIOS[chosen]
                    seconds[place] = seconds_WR[window, chosen]
        return Moved(budgets, ratios, seconds, worst)

    def _seconds(self, layer: int, offered: tuple[int, ...], plan: StepPlan) -> Floats:
        """Predicted seconds of a layer for every window and candidate; with its own budget, if it has one."""
        assert self.latency is not None  # noqa: S101
        coefficients = self.latency.of_layer(layer)
        return np.array(
            [
                [2 * float(coefficients @ terms(lengths, own or budget)) for budget in offered]
                for lengths, own in zip(plan.lengths, plan.own, strict=True)
            ]
        )

    def figures(self, plan: StepPlan, moved: Moved | None) -> dict[str, float]:
        """Predicted figures of a step for its record."""
        if moved is None:
            return {"imbalance": imbalance(plan.costs[plan.windows].sum(axis=1))}
        return {
            "imbalance": imbalance(moved.seconds.sum(axis=(0, 2))),
            "budget_ratio": float(moved.ratios.mean()),
            "coverage_loss": moved.coverage_loss,
        }


class RunBalancer(Balancer):
    """`Balancer` of a run, with its measurements; `imbalance`: measured in the last step, None if it is not."""

    def __init__(
        self,
        plan: TrainingPlan,
        options: TrainingOptions,
        gradients: BatchGradients,
        data: WindowSource,
        logger: logging.Logger,
    ) -> None:
        """Measure or read the latency model; collective.

        Raises:
            ConfigError: the options do not fit the model, the batch or the processes.
            IntegrityError: see `latency_model`.
        """
        held = gradients.held
        check_balance(options, held.config, plan.batch_size)
        balance = options.sparse_balance
        latency = None
        if balance.predicts:
            latency = latency_model(balance, held, plan.sequence_length, Path(plan.work), logger)
        super().__init__(
            options,
            data,
            batch_size=plan.batch_size,
            groups=balance.groups or held.parallel.sizes.data,
            length=plan.sequence_length,
            layers=held.config.num_layers,
            latency=latency,
        )
        self._gradients, self._parallel = gradients, held.parallel
        self._layers = gradients.compute.layers
        self._share = held.parallel.batch_share(plan.batch_size, plan.micro_batch_size)
        self._first_step = plan.before.step + 1
        # Compiled blocks, and those that wait for others in the middle, cannot be measured.
        clocked = not options.compile and held.parallel.sizes.context == 1
        self._clock = AttentionClock(self._layers, held.parallel.device) if clocked else None
        self.imbalance: float | None = None

    def take(self, batch: Batch, first_sample: int, step: int) -> tuple[Taken, dict[str, float]]:
        """Gradients of a batch that starts at a sample, with its budgets, and figures; collective."""
        plan = self.plan(first_sample)
        moved = self.moved(plan) if self.options.moves_budgets else None
        if moved is not None:
            own = moved.budgets.reshape(len(moved.budgets), -1)[:, self._share.start : self._share.stop]
            batch = batch._replace(budgets=own)
        taken = self._measured(batch, step)
        if self._clock is not None:
            self.imbalance = measured_imbalance(self._parallel, self._clock.take())
        return taken, self.figures(plan, moved)

    def _measured(self, batch: Batch, step: int) -> Taken:
        if not self.options.moves_budgets or (step - self._first_step) % self.options.measure_every:
            return self._gradients.take(batch, step)
        assert self.latency is not None  # noqa: S101
        offered = {layer: candidates(own or 1) for layer, (own, _) in enumerate(self.latency.budgets)}
        sums_LKX = torch.zeros(len(offered), BUCKETS, len(RATIOS) + 1, dtype=torch.float64)
        with ExitStack() as stack:
            stack.enter_context(measuring(self._layers, offered, sums_LKX))
            taken = self._gradients.take(batch, step)
        if self._parallel.is_distributed:
            everywhere = sums_LKX.to(self._parallel.device)
            dist.all_reduce(everywhere)
            sums_LKX = everywhere
        self.coverage.add(sums_LKX)
        return taken
