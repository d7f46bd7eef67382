"""What a stretch of training is told and what it leaves, apart from how it is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from longcat.model.transformer import LongcatFlash
from longcat.stages.train.loader import Ids
from longcat.stages.train.schedule import Schedule

RECENT_STEPS = 20

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Counters:
    """What a model has seen since it was initialised: optimizer steps, tokens, samples."""

    step: int = 0
    tokens: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Plan:
    """One stretch of training at one sequence length.

    `work` is where it keeps its checkpoints; `*_start` is where step 0 of it stands. `width_scale` is the s by which
    learning rates differ among kinds of parameters (`stages.train.transfer`).
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

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    def counters(self, done: int) -> Counters:
        """The counters after `done` steps of this plan."""
        return Counters(
            self.before.step + done,
            self.before.tokens + done * self.tokens_per_step,
            self.before.samples + done * self.batch_size,
        )


@dataclass(frozen=True)
class Start:
    """What training begins with beside the weights: optimizer moments and averaged weights, by name; empty: none.

    `balance_coefficient` is that of the balance loss where it moves by itself; None: still to be found.
    """

    moments: Tensors
    average: Tensors
    balance_coefficient: float | None = None


@dataclass(frozen=True)
class Validation:
    """Windows [n, L] whose mean loss is the validation loss; n may be 0."""

    inputs: Ids
    targets: Ids


@dataclass(frozen=True)
class Trained:
    """A finished stretch: metrics.jsonl, the speed of this process, and what it leaves.

    `whole` gives the whole model and what goes on with it, in host memory; of several processes each that asks reads
    them.

    `samples_skipped` is how far the data ran ahead of the steps, because a rewind jumped over some.
    """

    whole: Callable[[], tuple[LongcatFlash, Start]]
    metrics_path: Path
    records: list[dict[str, Any]]
    samples_skipped: int
    performance: dict[str, float]

    @property
    def train_loss(self) -> float:
        """Mean loss of the last steps."""
        return _mean([record["loss"] for record in self._recent()])

    @property
    def active_experts(self) -> list[float]:
        """Mean number of FFN experts a token used in the last steps, layer by layer."""
        layers = zip(*(record["active_experts"] for record in self._recent()), strict=True)
        return [_mean(layer) for layer in layers]

    def _recent(self) -> list[dict[str, Any]]:
        """The records of the last steps that were taken, or of all steps where none was."""
        taken = [record for record in self.records if not record.get("skipped")]
        return (taken or self.records)[-RECENT_STEPS:]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
