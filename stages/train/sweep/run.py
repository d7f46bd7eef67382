"""Body of stage `train.sweep`: points as engine tasks, a table of losses, and a plot."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from longcat.pipeline.artifact import Artifact, load_artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.files import atomic_write, pretty_json, remove_tree
from longcat.pipeline.interrupt import StopSignal
from longcat.pipeline.progress import SilentProgress
from longcat.pipeline.stage import Context, Result
from longcat.stages.formats.checkpoint import new_architecture
from longcat.stages.formats.svg import Line, Panel, draw
from longcat.stages.train.check import preset_of
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.optim.transfer import PROXY_FILE
from longcat.stages.train.stability.config import SpikeOptions
from longcat.stages.train.stability.errors import DivergedError
from longcat.stages.train.sweep.grid import (
    INITIAL_STD,
    Point,
    SweepConfig,
    grid_axes,
    grid_points,
    point_config,
    point_configs,
)
from longcat.stages.train.watch.config import WatchOptions

SWEEP_FILE = "sweep.json"
PLOT_FILE = "loss.svg"
FIGURES = ("loss", "train_loss", "diverged", "note")


class Swept(NamedTuple):
    """A point, its configuration of `train`, and what `run_point` found."""

    point: Point
    training: TrainConfig
    figures: dict[str, Any]

    @property
    def loss(self) -> float:
        """Infinite if the training diverged."""
        return math.inf if self.figures["loss"] is None else float(self.figures["loss"])


def run_sweep(context: Context[SweepConfig]) -> Result:
    """Run stage `train.sweep`; see `stages.train.sweep`."""
    config, tokens = context.config, context.input("tokens")
    for training in point_configs(config):  # with the tokenizer itself, of which the check knows only the size
        new_architecture(preset_of(training), training.model, tokens)
    done = _train(context, grid_points(config)) if config.search == "grid" else _one_by_one(context)
    rows = [each.point | {key: each.figures[key] for key in FIGURES} for each in done]
    best = min((each for each in done if each.loss < math.inf), key=lambda each: each.loss, default=None)
    report = {"axes": grid_axes(config), "points": rows, "best": None if best is None else rows[done.index(best)]}
    atomic_write(context.output / SWEEP_FILE, pretty_json(report))
    plotted = plot([each.point for each in done], [each.figures for each in done], grid_axes(config))
    atomic_write(context.output / PLOT_FILE, plotted.encode())
    atomic_write(context.output / PROXY_FILE, pretty_json(_proxy(best, tokens)))
    return Result(
        counts={"points": len(rows), "diverged": sum(row["diverged"] for row in rows)},
        metrics={"points": rows, "best": None if best is None else best.point | {"loss": best.figures["loss"]}},
    )


def _train(
    context: Context[SweepConfig], points: Sequence[Point], first: int = 0, description: str = "points"
) -> list[Swept]:
    """Train points, in parallel; `first` is the number of the first of them."""
    trainings = [point_config(context.config, point) for point in points]
    tasks = [
        {
            "config": training.model_dump(mode="json"),
            "tokens": str(context.input("tokens").path),
            "folder": str(context.work / f"point-{number:04d}"),
        }
        for number, training in enumerate(trainings, start=first)
    ]
    figures = context.map_shards(run_point, tasks, description=description)
    return [Swept(*each) for each in zip(points, trainings, figures, strict=True)]


def _one_by_one(context: Context[SweepConfig]) -> list[Swept]:
    """Coordinate descent: all values of one key at the best values so far, then those of the next key."""
    axes = grid_axes(context.config)
    best: Point = {key: values[0] for key, values in axes.items()}
    done: list[Swept] = []
    for key, values in axes.items():
        candidates = [best | {key: value} for value in values]
        new = [point for point in candidates if all(point != each.point for each in done)]
        done += _train(context, new, len(done), f"values of {key}") if new else []
        best = min((each for each in done if each.point in candidates), key=lambda each: each.loss).point
    return done


def run_point(task: dict[str, Any]) -> dict[str, Any]:
    """Train one point; only its figures are kept.

    A killed point resumes from its last save. `loss` is the validation loss, or the training loss without validation
    tokens; null if the training diverged, which counts as infinite.
    """
    from longcat.stages.train.run import train_checkpoint

    folder, tokens = Path(task["folder"]), load_artifact(Path(task["tokens"]))
    context = point_context(_point(TrainConfig.model_validate(task["config"])), tokens, folder)
    try:
        metrics = train_checkpoint(context).metrics
    except DivergedError as error:
        found: dict[str, Any] = {"loss": None, "train_loss": None, "diverged": True, "note": error.what}
    else:
        loss = metrics.get("validation_loss", metrics["train_loss"])
        found = {"loss": loss, "train_loss": metrics["train_loss"], "diverged": False, "note": ""}
    remove_tree(folder)
    return found


def _point(config: TrainConfig) -> TrainConfig:
    """Configuration of a point: no watching, and no handling of divergence, which is a valid result."""
    stability = config.stability.model_copy(update={"spikes": SpikeOptions(action="none")})
    return config.model_copy(update={"stability": stability, "watch": WatchOptions(tensorboard=False)})


def point_context(config: TrainConfig, tokens: Artifact, folder: Path) -> Context[TrainConfig]:
    """Context of stage `train` that writes only into `folder` and is silent."""
    output, work = folder / "output", folder / "work"
    for path in (output, work):
        path.mkdir(parents=True, exist_ok=True)
    silent = logging.getLogger("longcat.point")
    silent.propagate = False
    silent.addHandler(logging.NullHandler())
    return Context(
        config=config,
        inputs={"tokens": (tokens,)},
        output=output,
        work=work,
        log_path=folder / "log.jsonl",
        engine=LocalEngine(workers=1),
        progress=SilentProgress(),
        logger=silent,
        stop=StopSignal(),
    )


def _proxy(best: Swept | None, tokens: Artifact) -> dict[str, Any] | None:
    """`stages.train.optim.transfer.Proxy` of the best point."""
    if best is None:
        return None
    architecture = new_architecture(preset_of(best.training), best.training.model, tokens)
    return {
        "id": f"sweep of {best.training.preset}",
        "model": architecture.to_dict(),
        "config": best.training.model_dump(mode="json"),
        "width_scale": 1.0,
    }


def plot(points: Sequence[Point], figures: Sequence[dict[str, Any]], axes: dict[str, list[Any]]) -> str:
    """Plot of loss against the learning rate (or the first numeric axis), one curve per combination of the others."""
    numeric = [key for key, values in axes.items() if all(isinstance(value, (int, float)) for value in values)]
    along = "learning_rate" if "learning_rate" in axes else next(iter(numeric), next(iter(axes)))
    curves: dict[str, list[tuple[float, float]]] = {}
    for point, found in zip(points, figures, strict=True):
        label = ", ".join(f"{_short(key)} {value}" for key, value in point.items() if key != along)
        place = point[along] if along in numeric else axes[along].index(point[along])
        loss = math.inf if found["loss"] is None else found["loss"]
        curves.setdefault(label, []).append((float(place), loss))
    lines = [Line.through(label or "loss", sorted(values)) for label, values in curves.items()]
    logarithmic = along in numeric and min(axes[along]) > 0
    return draw([Panel("loss by point", _short(along), lines, x_log=logarithmic)], width=560, height=360)


def _short(key: str) -> str:
    return "initial std" if key == INITIAL_STD else key.replace("_", " ")
