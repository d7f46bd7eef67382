"""Stage `train`: trains a new model, or continues from a checkpoint, on packed tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.launch.torchrun import follows, run_or_launch

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


def _check(config: TrainConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.train.check import foresee_training

    return foresee_training(config, inputs)


@stage(
    "train",
    revision=3,
    inputs={"tokens": "tokens", "checkpoint": "checkpoint?", "proxy": "checkpoint|report?"},
    output="checkpoint",
    follows=follows,
    check=_check,
    body="longcat.stages.train.run:train_checkpoint",
)
def train(context: Context[TrainConfig]) -> Result:
    """Train a model on packed tokens."""
    return run_or_launch(context, "train")
