"""Stage `train`: from tokens to a checkpoint, with a new model or going on from a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.launch import follows, is_launched, launch

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput


def _check(config: TrainConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.train.check import foresee_training

    return foresee_training(config, inputs)


@stage(
    "train",
    revision=2,
    inputs={"tokens": "tokens", "checkpoint": "checkpoint?", "proxy": "checkpoint|report?"},
    output="checkpoint",
    follows=follows,
    check=_check,
)
def train(context: Context[TrainConfig]) -> Result:
    """Train a model on packed tokens."""
    if is_launched(context.config):
        return launch(context, "train")
    from longcat.stages.train.run import train_checkpoint

    return train_checkpoint(context)
