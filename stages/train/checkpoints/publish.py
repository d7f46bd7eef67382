"""Body of stage `train.publish`: the tensors of a save in the layout of a checkpoint artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from longcat.model.config import ModelConfig
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.files import atomic_write, canonical_json
from longcat.pipeline.stage import Context, Result
from longcat.stages.formats.checkpoint import METRICS_FILE, parameter_count, write_checkpoint
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import TrainingState
from longcat.stages.train.checkpoints.resumable import Saved, read_save
from longcat.stages.train.checkpoints.run import read_whole
from longcat.stages.train.checkpoints.save_files import metrics_of, saves_of
from longcat.stages.train.joins.publish_config import PublishConfig
from longcat.stages.train.parallel.control import control
from longcat.stages.train.training_plan import mean_active_experts, mean_loss


def publish_save(context: Context[PublishConfig]) -> Result:
    """Run stage `train.publish`; see `stages.train.joins.publish`.

    Raises:
        IntegrityError: the save, or the metrics.jsonl of the run, is damaged.
        InputError: an earlier version saved it, without the training history.
    """
    config = context.config
    saved = _read(config)
    state = TrainingState.model_validate(saved.state["training"])
    architecture = ModelConfig.from_dict(saved.state["model"], source=str(saved.folder))
    averaged = any(name.startswith("average-") for name in saved.files)
    model, end = read_whole(saved, architecture, with_average=averaged)
    records = _records(config, state.step)
    write_checkpoint(
        context.output,
        model,
        replace(end, balance_coefficient=state.balance_coefficient),
        state,
        context.input("tokens"),
    )
    atomic_write(context.output / METRICS_FILE, b"".join(canonical_json(record) + b"\n" for record in records))
    counts = saved.state["run"] | {"total_steps": state.step, "total_tokens": state.tokens}
    return Result(counts=counts | {"parameters": parameter_count(architecture)}, metrics=_figures(records))


def _read(config: PublishConfig) -> Saved:
    folder = config.folder()
    saved = read_save(folder, control())
    if saved is None:
        others = [str(step) for step in saves_of(config.root) if step != config.step]
        raise IntegrityError(
            f"the save of step {config.step} is damaged", where=str(folder), hint=f"other saves: {', '.join(others)}"
        )
    if "training" not in saved.state:
        raise InputError(
            "an earlier version of longcat saved it, without the training history",
            where=str(folder),
            hint="the command that started the run resumes it",
        )
    return saved


def _records(config: PublishConfig, step: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl up to `step` since initialisation."""
    files = metrics_of(config.root)
    every = [record for path in files for record in read_metrics(path, step) if record["step"] <= step]
    found = sorted(every, key=lambda record: record["step"])
    if not found or found[-1]["step"] != step:
        raise IntegrityError(f"{METRICS_FILE} has no line of step {step}", where=str(config.root))
    return found


def _figures(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Metrics for the manifest, as those of `train`."""
    figures = {"train_loss": mean_loss(records), "active_experts": mean_active_experts(records)}
    return figures | {key: value for key, value in records[-1].items() if key == "validation_loss"}
