"""Estimates that `--dry-run` prints for models not trained yet: size, training length, memory."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.model.accounting import Accounting
    from longcat.model.config import ModelConfig
    from longcat.pipeline.plans import Plan
    from longcat.stages.train.config import TrainingOptions


def forecast_figures(plan: Plan) -> dict[str, Any]:
    """Estimates that follow from the configuration alone; empty for stages without estimates.

    `memory_bytes` is the estimate of `model.training_memory` for the dtype and micro batch of the run, the largest
    phase of several; with several processes, that of the process that needs most (`stages.plan.memory`).
    """
    found = {key: value for key, value in plan.forecast.items() if isinstance(value, int)}
    model = plan.forecast.get("model")
    if model is None:
        return found
    sizes = _count(model)
    context = {"context": model.max_position_embeddings}
    figures = {"parameters": sizes.total, "activated_parameters": sizes.activated_mean, **context, **found}
    return figures | ({"memory_bytes": _memory_bytes(plan, model)} if "steps" in found else {})


def values_by_kind(plan: Plan) -> list[dict[str, Any]]:
    """Rows of initial deviation, learning rate and weight decay by kind of parameter; none if they do not differ."""
    found: list[dict[str, Any]] = plan.forecast.get("by_kind", [])
    return found


def warnings(plan: Plan) -> list[str]:
    """Sentences on what is likely to go wrong, from the configuration and the inputs that exist."""
    found: list[str] = plan.forecast.get("warnings", [])
    return found


def _memory_bytes(plan: Plan, model: ModelConfig) -> int:
    from longcat.stages.train.config import TrainingOptions

    options = plan.config
    if not isinstance(options, TrainingOptions):
        return _count(model).memory.training_fp32
    phases = getattr(options, "phases", None) or [options]
    if options.world_size > 1:
        from longcat.stages.plan.training import process_memory

        return max(
            process_memory(model, options, phase.sequence_length, phase.batch_size, phase.micro_batch_size)
            for phase in phases
        )
    return max(_single_process(model, options, phase) for phase in phases)


def _single_process(model: ModelConfig, options: TrainingOptions, phase: Any) -> int:
    from longcat.model.training_memory import training_memory

    micro = phase.micro_batch_size or phase.batch_size
    return training_memory(
        model,
        "bfloat16" if options.resolved().dtype == "bfloat16" else "float32",
        micro * phase.sequence_length,
        parts=-(-phase.batch_size // micro),
        checkpointing=options.activation_checkpointing,
        optimizer=options.optimizer.kind,
        averaged=options.optimizer.average_decay is not None,
    ).peak


def _count(model: ModelConfig) -> Accounting:
    return _count_of(model.model_dump_json())


@lru_cache(maxsize=32)
def _count_of(text: str) -> Accounting:
    """Accounting of a configuration in JSON: attention kinds with options cannot be hashed."""
    from longcat.model.accounting import count
    from longcat.model.config import ModelConfig

    return count(ModelConfig.model_validate_json(text))


def training_plans(plan: Plan) -> list[dict[str, Any]]:
    """What a training will do, one row a phase (`stages.train.joins.outlook`); empty for other stages."""
    rows: list[dict[str, Any]] = plan.forecast.get("plan", [])
    return rows


def training_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `training_plans` with short names, for a table."""
    rates = row["learning_rate"] or {}
    share = row["seen_before"]
    return {
        "length": row["sequence_length"],
        **{key: row[key] for key in ("steps", "tokens", "epochs")},
        "epochs before": row["epochs_before"],
        "seen before": None if share is None else f"{share:.1%}",
        **{f"lr {key}": rates.get(key) for key in ("start", "peak", "end")},
        **{key: row[key] for key in ("schedule", "data", "problem") if key in row},
    }
