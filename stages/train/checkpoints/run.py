"""Saving and restoring of a run: weights, moments and averages of the part that a process holds."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.stages.formats.checkpoint import Start, Tensors
from longcat.stages.formats.metrics import MetricsFile
from longcat.stages.train.checkpoints.resumable import RunCheckpoints, Saved, model_tensors
from longcat.stages.train.optim.adamw import moment_names, moments, moments_like
from longcat.stages.train.optim.after_step import AfterStep
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.placement import empty_whole


class Saves:
    """Checkpoints of a run; see `stages.train.checkpoints.resumable`.

    Every process calls every method, in the same order.
    """

    def __init__(self, folder: Path, keep: int, log: Callable[[dict[str, Any]], None]) -> None:
        self._checkpoints = RunCheckpoints(folder, keep, log)
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
        groups = {"model": dict(held.named_tensors()), "optimizer": moments(held, optimizer)}
        groups |= {hook.group: tensors for hook in hooks if (tensors := hook.tensors())}
        self._checkpoints.save(done, groups, state)

    def newest(self, metrics: MetricsFile, logger: logging.Logger) -> Saved | None:
        """Newest intact checkpoint covered by metrics.jsonl."""
        return self._checkpoints.latest(lambda saved: metrics.matches(saved.state["metrics"]), logger.warning)

    def steps(self) -> list[int]:
        """Steps of the existing checkpoints, after waiting for the one in flight."""
        self.wait()
        return self._checkpoints.steps()

    def drop_after(self, done: int) -> None:
        """Remove checkpoints after step `done`."""
        self._checkpoints.drop_after(done)

    def at(self, done: int) -> Saved:
        """The checkpoint of `done` steps."""
        return self._checkpoints.at(done)

    def load(
        self, saved: Saved, held: Distributed, optimizer: torch.optim.Optimizer, hooks: Sequence[AfterStep]
    ) -> None:
        """Load the tensors that this process holds."""
        saved.reader("model").load(dict(held.named_tensors()))
        stored = saved.reader("optimizer")
        names = [name for name in moment_names(held) if name in stored.shapes]
        stored.load(moments_like(held, optimizer, names))
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
        return lambda: _read_whole(saved, held.config, with_average=average is not None)


def _read_whole(saved: Saved, config: ModelConfig, *, with_average: bool) -> tuple[LongcatFlash, Start]:
    model = empty_whole(config)
    saved.reader("model").load(model_tensors(model))
    stored = saved.reader("optimizer")
    state = {name: torch.empty(stored.shapes[name]) for name in moment_names(model) if name in stored.shapes}
    stored.load(state)
    averages: Tensors = {}
    if with_average:
        averages = {name: torch.empty_like(parameter) for name, parameter in model.named_parameters()}
        saved.reader("average").load(averages)
    return model, Start(state, averages)
