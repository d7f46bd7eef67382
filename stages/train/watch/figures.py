"""A line of metrics.jsonl as named scalars, one per curve, for viewers without support for layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from longcat.stages.train.watch.throughput import Timing

Scalars = dict[str, float]

# Viewer group of a record's field; fields not listed here are not curves.
NAMES = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "mtp_loss": "loss/mtp",
    "hidden_z_loss": "loss/hidden_z",
    "balance_loss": "loss/balance",
    "learning_rate": "optimizer/learning_rate",
    "gradient_norm": "optimizer/gradient_norm",
    "skipped": "optimizer/skipped",
    "balance_gain": "experts/balance_gain",
    "balance_coefficient": "experts/balance_coefficient",
    "active_experts": "experts/active",
    "active_experts_std": "experts/active_std",
    "imbalance": "balance/imbalance",
    "budget_ratio": "balance/budget_ratio",
    "coverage_loss": "balance/coverage_loss",
    "tokens": "progress/tokens",
    "epoch": "progress/epoch",
}


def scalars(record: Mapping[str, Any], timing: Timing | None = None) -> Scalars:
    """All curves of a step: losses, optimizer, experts and stability by layer, and speed."""
    found: Scalars = {}
    for field, name in NAMES.items():
        if field in record:
            found.update(_named(name, record[field]))
    for field, value in record.get("stability", {}).items():
        found.update(_named(f"stability/{field}", value))
    for layer, load in enumerate(record.get("expert_load", ())):
        found[f"experts/busiest_over_mean/{_layer(layer)}"] = max(load) * len(load) / (sum(load) or 1)
    if timing is not None:
        found |= {"speed/tokens_per_second": timing.tokens_per_second, "speed/step_seconds": timing.seconds}
        found["speed/memory_bytes"] = timing.memory_bytes
        if timing.mfu is not None:
            found["speed/mfu"] = timing.mfu
    return found


def _named(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}/{key}", float(item)) for key, item in value.items() if item is not None)
    elif isinstance(value, Sequence):
        yield from ((f"{name}/{_layer(i)}", float(item)) for i, item in enumerate(value) if item is not None)
    elif value is not None:
        yield name, float(value)


def _layer(index: int) -> str:
    return f"layer_{index:02d}"
