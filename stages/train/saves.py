"""What a run saves and takes up again: weights, moments and averages of whatever part a process holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.average import WeightAverage
from longcat.stages.train.metrics import MetricsFile
from longcat.stages.train.optimizer import moment_names, moments, moments_like
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.plan import Start, Tensors
from longcat.stages.train.state import RunCheckpoints, Saved, model_tensors
from longcat.stages.train.weights import empty_whole


class Saves:
    """The checkpoints of a run; see `stages.train.state`. Every process calls every method, in the same order."""

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
        average: WeightAverage | None,
        state: dict[str, Any],
    ) -> None:
        """Begin to save what stands after `done` steps, and `state`."""
        groups = {"model": dict(held.named_tensors()), "optimizer": moments(held, optimizer)}
        if average is not None:
            groups["average"] = average.tensors()
        self._checkpoints.save(done, groups, state)

    def newest(self, metrics: MetricsFile, logger: logging.Logger) -> Saved | None:
        """The newest whole checkpoint that metrics.jsonl reaches to."""
        return self._checkpoints.latest(lambda saved: metrics.matches(saved.state["metrics"]), logger.warning)

    def steps(self) -> list[int]:
        """The steps done of the checkpoints there are, once the one on its way has arrived."""
        self.wait()
        return self._checkpoints.steps()

    def drop_after(self, done: int) -> None:
        """Remove the checkpoints of more than `done` steps."""
        self._checkpoints.drop_after(done)

    def at(self, done: int) -> Saved:
        """The checkpoint of `done` steps."""
        return self._checkpoints.at(done)

    def load(
        self, saved: Saved, held: Distributed, optimizer: torch.optim.Optimizer, average: WeightAverage | None
    ) -> None:
        """Fill what this process holds."""
        saved.reader("model").load(dict(held.named_tensors()))
        stored = saved.reader("optimizer")
        names = [name for name in moment_names(held) if name in stored.shapes]
        stored.load(moments_like(held, optimizer, names))
        if average is not None:
            saved.reader("average").load(average.tensors())

    def whole(
        self, done: int, held: Distributed, optimizer: torch.optim.Optimizer, average: WeightAverage | None
    ) -> Callable[[], tuple[LongcatFlash, Start]]:
        """A function that gives the whole model after `done` steps, with moments and averages, in host memory.

        One process by itself has them; of several, each that calls it reads them from the checkpoint of that step.
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
