"""Inputs and results of a training phase."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longcat.model.transformer import LongcatFlash
from longcat.stages.formats.checkpoint import Start
from longcat.stages.train.optim.schedule import Schedule

RECENT_STEPS = 20


@dataclass(frozen=True)
class Counters:
    """Totals since initialisation: optimizer steps, tokens, samples."""

    step: int = 0
    tokens: int = 0
    samples: int = 0


@dataclass(frozen=True)
class TrainingPlan:
    """One training phase at one sequence length.

    `work` is the folder of its checkpoints; `*_start` are positions at its step 0, `first_step` and `first_token` the
    steps and tokens of the run before it, `shown_before` those of its steps that a progress bar shows as done.
    `width_scale` is the s of learning rates by parameter kind
    (`stages.train.optim.kinds`).
    """

    label: str
    work: Path
    steps: int
    sequence_length: int
    batch_size: int
    micro_batch_size: int
    schedule: Schedule
    schedule_start: int
    data_start: int
    before: Counters
    width_scale: float = 1.0
    first_step: int = 0
    first_token: int = 0
    shown_before: int = 0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    def counters(self, done: int) -> Counters:
        """Counters after `done` steps of this plan."""
        return Counters(
            self.before.step + done,
            self.before.tokens + done * self.tokens_per_step,
            self.before.samples + done * self.batch_size,
        )


@dataclass(frozen=True)
class Trained:
    """A finished phase: metrics.jsonl, the speed of this process, and the resulting model.

    `whole` returns the whole model and its training state in host memory; with several processes each caller reads
    them.

    `samples_skipped` is the number of samples skipped by rewinds.
    """

    whole: Callable[[], tuple[LongcatFlash, Start]]
    metrics_path: Path
    records: list[dict[str, Any]]
    samples_skipped: int
    performance: dict[str, float]

    @property
    def train_loss(self) -> float:
        """Mean loss of the last steps."""
        return mean_loss(self.records)

    @property
    def active_experts(self) -> list[float]:
        """Mean number of FFN experts per token in the last steps, by layer."""
        return mean_active_experts(self.records)


def mean_loss(records: Sequence[Mapping[str, Any]]) -> float:
    """Mean loss of the last lines of metrics.jsonl."""
    return _mean([record["loss"] for record in _recent(records)])


def mean_active_experts(records: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean number of FFN experts per token in the last lines of metrics.jsonl, by layer."""
    layers = zip(*(record["active_experts"] for record in _recent(records)), strict=True)
    return [_mean(layer) for layer in layers]


def _recent(records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The last lines of steps that were not skipped, or of all steps if all were skipped."""
    taken = [record for record in records if not record.get("skipped")]
    return (taken or records)[-RECENT_STEPS:]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
