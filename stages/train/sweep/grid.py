"""Configuration of `train.sweep`, and the points of its grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from longcat.pipeline.config import build_config, merge, parse_assignments
from longcat.pipeline.errors import ConfigError
from longcat.stages.train.config import EvaluationOptions, TrainConfig

INITIAL_STD = "model.initializer_range"
Point = dict[str, Any]


class SweepConfig(TrainConfig):
    """Configuration of `train.sweep`: that of `train` for every point, and the grid."""

    threads: int | None = Field(
        default=1, ge=1, description="CPU threads per point; points run in parallel, one per worker; null: all cores"
    )
    # Part of the identity here: the validation loss decides which point is the best.
    evaluation: EvaluationOptions = EvaluationOptions()
    grid: tuple[str, ...] = Field(
        default=("learning_rate=1e-3,3e-3,1e-2,3e-2", f"{INITIAL_STD}=0.01,0.02,0.04"),
        min_length=1,
        description="key=value,value,... for any key of `train`, one entry per key",
    )
    search: Literal["grid", "one_by_one"] = Field(
        default="grid",
        description="grid: every combination is a point. one_by_one: one key after the other, with the best values of "
        "the keys before it and the first values of those after it",
    )


def grid_axes(config: SweepConfig) -> dict[str, list[Any]]:
    """Values of every key of the grid.

    Raises:
        ConfigError: a key has no values, is duplicated, or has duplicate values.
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
            raise ConfigError(f"grid: {key} is duplicated", hint="put all its values in one entry")
        axes[key] = listed
    return axes


def grid_points(config: SweepConfig) -> list[Point]:
    """All combinations by key; the last key varies fastest.

    With `search` = one_by_one, as many points as will be trained: those of a search in which first values are the best.
    """
    axes = grid_axes(config)
    if config.search == "grid":
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    first = {key: values[0] for key, values in axes.items()}
    return [first, *(first | {key: value} for key, values in axes.items() for value in values[1:])]


def point_configs(config: SweepConfig) -> Iterator[TrainConfig]:
    """The configuration of `train` at every point of `grid_points`; raises as `point_config`."""
    return (point_config(config, point) for point in grid_points(config))


def point_config(config: SweepConfig, point: Point) -> TrainConfig:
    """The configuration of `train` at a point.

    Raises:
        ConfigError: a key or value of the grid does not fit; names it.
    """
    values = {key: value for key, value in config.model_dump().items() if key in TrainConfig.model_fields}
    for key, value in point.items():
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        values = merge(values, nested)
    return build_config(TrainConfig, values, where=f"grid point {point}")
