"""Check that the figures of a step are finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from longcat.stages.formats.metrics import read_metrics
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.stability.errors import DivergedError


def check_finite(figures: Mapping[str, float], step: int, metrics: Path, label: str, options: TrainingOptions) -> None:
    """Raise DivergedError for the first figure that is NaN or infinite; `label` is the phase of the run."""
    for name, value in figures.items():
        if math.isfinite(value):
            continue
        records = read_metrics(metrics)
        last = f"; the last finite loss was {records[-1]['loss']:.4f} at step {records[-1]['step']}" if records else ""
        raise DivergedError(
            f"the {name} is {value} at step {step}{last}",
            where=label,
            hint=f"train with a learning_rate below {options.learning_rate:g}, more schedule.warmup_steps "
            f"or an optimizer.gradient_clip below {options.optimizer.gradient_clip:g}",
        )
