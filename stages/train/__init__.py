"""Stage `train`: trains a new model, or continues from a checkpoint, on packed tokens."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.launch.torchrun import follows, run_or_launch

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _check(config: TrainConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.stages.train.check import foresee_training

    return foresee_training(config, inputs)


def _go_on(run: str, differences: Mapping[str, tuple[Any, Any]], name: str | None) -> str | None:
    """Another model, or other initial weights, cannot go on from the saves of a run."""
    if any(key == "preset" or key.startswith("model.") or key.endswith(".initial_std") for key in differences):
        return None
    words = ["longcat", "train", "--resume-from", run]
    for key, (_, here) in differences.items():
        words += ["--set", f"{key}={json.dumps(here)}"]
    return shlex.join([*words, *(("--name", name) if name else ())])


@stage(
    "train",
    revision=4,
    inputs={"tokens": "tokens", "checkpoint": "checkpoint?", "proxy": "checkpoint|report?"},
    output="checkpoint",
    follows=follows,
    check=_check,
    body="longcat.stages.train.run:train_checkpoint",
    go_on=_go_on,
)
def train(context: Context[TrainConfig]) -> Result:
    """Train a model on packed tokens."""
    return run_or_launch(context, "train")
