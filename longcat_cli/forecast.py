"""Estimates that `--dry-run` prints for models not trained yet: size, training length, memory."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.model.accounting import Accounting
    from longcat.model.config import ModelConfig
    from longcat.pipeline.runner import Plan


def forecast_figures(plan: Plan) -> dict[str, Any]:
    """Estimates that follow from the configuration alone; empty for stages without estimates.

    `memory_bytes` counts float32 weights, gradients and AdamW moments, without activations.
    """
    found = {key: value for key, value in plan.forecast.items() if isinstance(value, int)}
    model = plan.forecast.get("model")
    if model is None:
        return found
    sizes = _count(model)
    context = {"context": model.max_position_embeddings}
    figures = {"parameters": sizes.total, "activated_parameters": sizes.activated_mean, **context, **found}
    return figures | ({"memory_bytes": sizes.memory.training_fp32} if "steps" in found else {})


@lru_cache(maxsize=32)
def _count(model: ModelConfig) -> Accounting:
    from longcat.model.accounting import count

    return count(model)
