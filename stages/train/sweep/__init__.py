"""Stage `train.sweep`: one training a point of a grid, and which point ends with the lowest loss."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from longcat.pipeline.config import build_config, merge, parse_assignments
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.train.config import TrainConfig

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput

INITIAL_STD = "model.initializer_range"
Point = dict[str, Any]


class SweepConfig(TrainConfig):
    """Configuration of `train.sweep`: that of `train` for every point, and the grid."""

    threads: int | None = Field(
        default=1, ge=1, description="CPU threads a point; points run side by side, one a worker; null: all cores"
    )
    grid: tuple[str, ...] = Field(
        default=("learning_rate=1e-3,3e-3,1e-2,3e-2", f"{INITIAL_STD}=0.01,0.02,0.04"),
        min_length=1,
        description="key=value,value,... of any key of `train`, one entry a key; every combination is a point",
    )


def grid_axes(config: SweepConfig) -> dict[str, list[Any]]:
    """The values of every key of the grid.

    Raises:
        ConfigError: a key has no values, stands twice, or has a value twice.
    """
    axes: dict[str, list[Any]] = {}
    for entry in config.grid:
        key, _, values = entry.partition("=")
        key = key.strip()
        nested = parse_assignments([f"{key}=[{values}]"])
        for part in key.split("."):
            nested = nested[part]
        listed: list[Any] = list(nested)
        if not listed or len({str(value) for value in listed}) < len(listed):
            raise ConfigError(f"grid: {entry!r} needs values that differ, e.g. learning_rate=1e-3,3e-3")
        if key in axes:
            raise ConfigError(f"grid: {key} stands twice", hint="give all its values in one entry")
        axes[key] = listed
    return axes


def grid_points(config: SweepConfig) -> list[Point]:
    """Every combination, by key; the last key changes fastest."""
    axes = grid_axes(config)
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def point_configs(config: SweepConfig) -> Iterator[TrainConfig]:
    """The configuration of `train` at every point.

    Raises:
        ConfigError: a key or value of the grid does not fit; names it.
    """
    base = {key: value for key, value in config.model_dump().items() if key in TrainConfig.model_fields}
    for point in grid_points(config):
        values = base
        for key, value in point.items():
            nested: Any = value
            for part in reversed(key.split(".")):
                nested = {part: nested}
            values = merge(values, nested)
        yield build_config(TrainConfig, values, where=f"grid point {point}")


def _check(config: SweepConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    """A grid that asks for a model that cannot be is refused before the first point."""
    from longcat.stages.train.check import foresee_training

    foreseen = [foresee_training(training, inputs) for training in point_configs(config)]
    models = [found["model"] for found in foreseen if "model" in found]
    largest = {"model": max(models, key=lambda model: (model.hidden_size, model.num_layers))} if models else {}
    return {"steps": foreseen[0]["steps"], "tokens": sum(found["tokens"] for found in foreseen)} | largest


@stage("train.sweep", revision=1, inputs={"tokens": "tokens"}, output="report", check=_check)
def sweep(context: Context[SweepConfig]) -> Result:
    """Train a new model at every point of a grid and report the losses.

    Points run side by side on the workers; a point that diverges is a result. `longcat train --transfer-from` takes the
    best point to a wider model.
    """
    from longcat.stages.train.sweep.run import run_sweep

    return run_sweep(context)
