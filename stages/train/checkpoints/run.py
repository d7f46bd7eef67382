"""Saving and restoring of a run: weights, moments and averages of the part that a process holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.stages.formats.checkpoint import Start, Tensors
from longcat.stages.formats.metrics import MetricsFile
from longcat.stages.train.checkpoints.resumable import RunCheckpoints, Saved, model_tensors
from longcat.stages.train.checkpoints.shards import Part
from longcat.stages.train.optim.adamw import moment_names, moments, moments_like
from longcat.stages.train.optim.after_step import AfterStep
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.optim.row_state import load_rows, saved_moments
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.placement import empty_whole


class Saves:
    """Checkpoints of a phase that begins after `first` steps of its run; see `stages.train.checkpoints.resumable`.

    They are numbered by the steps of the run; `done` below are the steps of the phase. Every process calls every
    method, in the same order.
    """

    def __init__(
        self, folder: Path, keep: int, keep_every: int, first: int, log: Callable[[dict[str, Any]], None]
    ) -> None:
        self._checkpoints, self._first = RunCheckpoints(folder, keep, log, keep_every=keep_every), first
        self.before_update = self._checkpoints.before_update
        self.wait = self._checkpoints.wait
        self.close = self._checkpoints.close

    def save(
        self,
        done: int,
        held: Distributed,
        optimizer: torch.optim.Optimizer,
        hooks: Sequence[AfterStep],
        state: dict[str, Any],
    ) -> None:
        """Start saving the tensors after `done` steps, and `state`."""
        groups: dict[str, Mapping[str, Part]] = {
            "model": dict(held.named_tensors()),
            "optimizer": saved_moments(held, optimizer),
        }
        groups |= {hook.group: tensors for hook in hooks if (tensors := hook.tensors())}
        self._checkpoints.save(self._first + done, groups, state)

    def newest(self, metrics: MetricsFile, logger: logging.Logger) -> int | None:
        """Steps done at the newest intact checkpoint covered by metrics.jsonl."""
        saved = self._checkpoints.latest(lambda saved: metrics.matches(saved.state["metrics"]), logger.warning)
        return None if saved is None else saved.step - self._first

    def steps(self) -> list[int]:
        """Steps done at the existing checkpoints, after waiting for the one in flight."""
        self.wait()
        return [step - self._first for step in self._checkpoints.steps()]

    def drop_after(self, done: int) -> None:
        """Remove checkpoints after step `done`."""
        self._checkpoints.drop_after(self._first + done)

    def at(self, done: int) -> Saved:
        """The checkpoint of `done` steps."""
        return self._checkpoints.at(self._first + done)

    def load(
        self, saved: Saved, held: Distributed, optimizer: torch.optim.Optimizer, hooks: Sequence[AfterStep]
    ) -> None:
        """Load the tensors that this process holds."""
        saved.reader("model").load(dict(held.named_tensors()))
        stored = saved.reader("optimizer")
        names = [name for name in moment_names(held) if name in stored.shapes]
        stored.load(moments_like(held, optimizer, names))
        load_rows(held, optimizer, stored)
        for hook in hooks:
            if tensors := hook.tensors():
                saved.reader(hook.group).load(tensors)

    def whole(
        self, done: int, held: Distributed, optimizer: torch.optim.Optimizer, average: WeightAverage | None
    ) -> Callable[[], tuple[LongcatFlash, Start]]:
        """Function that returns the whole model after `done` steps, with moments and averages, in host memory.

        A single process has them in memory; with several, each caller reads them from the checkpoint of that step.
        """
        if not held.parallel.is_distributed:
            averages = {} if average is None else average.tensors()
            return lambda: (held.model, Start(moments(held, optimizer), averages))
        saved = self.at(done)
        return lambda: read_whole(saved, held.config, with_average=average is not None)


def read_whole(saved: Saved, config: ModelConfig, *, with_average: bool) -> tuple[LongcatFlash, Start]:
    """The whole model of a checkpoint in host memory, with moments and, if asked for, averages.

    Raises:
        IntegrityError: a tensor is missing, or has another shape.
    """
    model = empty_whole(config)
    saved.reader("model").load(model_tensors(model))
    stored = saved.reader("optimizer")
    names = [name for name in moment_names(model) if name in stored.shapes]
    state = {name: torch.empty(stored.shapes[name], dtype=stored.dtypes[name]) for name in names}
    stored.load(state)
    averages: Tensors = {}
    if with_average:
        averages = {name: torch.empty_like(parameter) for name, parameter in model.named_parameters()}
        saved.reader("average").load(averages)
    return model, Start(state, averages)
