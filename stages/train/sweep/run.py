"""Body of stage `train.sweep`: points as engine tasks, a table of losses, and a plot."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from longcat.stages.train.sweep.grid import INITIAL_STD, Point, SweepConfig, grid_axes, grid_points, point_configs
from longcat.stages.train.watch.config import WatchOptions

SWEEP_FILE = "sweep.json"
PLOT_FILE = "loss.svg"
FIGURES = ("loss", "train_loss", "diverged", "note")


def run_sweep(context: Context[SweepConfig]) -> Result:
    """Run stage `train.sweep`; see `stages.train.sweep`."""
    config, tokens = context.config, context.input("tokens")
    points, trainings = grid_points(config), list(point_configs(config))
    for training in trainings:  # with the tokenizer itself, of which the check knows only the size
        new_architecture(preset_of(training), training.model, tokens)
    tasks = [
        {
            "config": training.model_dump(mode="json"),
            "tokens": str(tokens.path),
            "folder": str(context.work / f"point-{number:04d}"),
        }
        for number, training in enumerate(trainings)
    ]
    figures = context.map_shards(run_point, tasks, description="points")
    rows = [point | {key: found[key] for key in FIGURES} for point, found in zip(points, figures, strict=True)]
    best = _best(figures)
    report = {"axes": grid_axes(config), "points": rows, "best": None if best is None else rows[best]}
    atomic_write(context.output / SWEEP_FILE, pretty_json(report))
    atomic_write(context.output / PLOT_FILE, plot(points, figures, grid_axes(config)).encode())
    atomic_write(context.output / PROXY_FILE, pretty_json(_proxy(best, trainings, tokens)))
    return Result(
        counts={"points": len(rows), "diverged": sum(row["diverged"] for row in rows)},
        metrics={"points": rows, "best": None if best is None else points[best] | {"loss": figures[best]["loss"]}},
    )


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


def _best(figures: Sequence[dict[str, Any]]) -> int | None:
    """Index of the point with the lowest loss, the first of ties; None if all diverged."""
    finite = [number for number, found in enumerate(figures) if found["loss"] is not None]
    return min(finite, key=lambda number: figures[number]["loss"], default=None)


def _proxy(best: int | None, trainings: Sequence[TrainConfig], tokens: Artifact) -> dict[str, Any] | None:
    """`stages.train.optim.transfer.Proxy` of the best point."""
    if best is None:
        return None
    training = trainings[best]
    architecture = new_architecture(preset_of(training), training.model, tokens)
    return {
        "id": f"sweep of {training.preset}",
        "model": architecture.to_dict(),
        "config": training.model_dump(mode="json"),
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
