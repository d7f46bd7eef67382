"""Stage `train.publish`: makes a save of a training run, finished or not, a checkpoint artifact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.files import sha256_file
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.checkpoints.save_files import STATE_FILE, read_save_state
from longcat.stages.train.joins.publish_config import PublishConfig

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput


def _sources(config: PublishConfig) -> dict[str, str]:
    """The digest of state.json, which holds those of all files of the save."""
    try:
        return {"save": sha256_file(config.folder() / STATE_FILE)}
    except FileNotFoundError as error:
        raise InputError("the save was removed meanwhile", where=str(error.filename)) from None


def _check(config: PublishConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    from longcat.model.config import ModelConfig
    from longcat.stages.formats.training_state import TrainingState

    content = read_save_state(config.folder())
    if content is None or "training" not in content["state"]:
        return {}
    state = content["state"]
    return {
        "model": ModelConfig.from_dict(state["model"], source=str(config.root)),
        "state": TrainingState.model_validate(state["training"]),
    }


@stage(
    "train.publish",
    revision=1,
    inputs={"tokens": "tokens", "checkpoint": "checkpoint?", "proxy": "checkpoint|report?"},
    output="checkpoint",
    sources=_sources,
    resumes=False,
    check=_check,
)
def publish(context: Context[PublishConfig]) -> Result:
    """Make a save of a training run a checkpoint artifact, with its inputs as lineage."""
    from longcat.stages.train.checkpoints.publish import publish_save

    return publish_save(context)
