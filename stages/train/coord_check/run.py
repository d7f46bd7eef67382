"""Body of stage `train.coord-check`: a short training at every width, and the slopes of the measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from longcat.model.config import ModelConfig
from longcat.pipeline.artifact import load_artifact
from longcat.pipeline.files import atomic_write, pretty_json
from longcat.pipeline.stage import Context, Result
from longcat.stages.device import choose_device
from longcat.stages.formats.checkpoint import new_architecture
from longcat.stages.formats.svg import Line, Panel, draw
from longcat.stages.formats.training_windows import training_windows
from longcat.stages.formats.windows import batch
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.coord_check.by_kind import KindProbe, exponents, follows_table, slope
from longcat.stages.train.coord_check.config import CoordCheckConfig, width_table
from longcat.stages.train.coord_check.probe import Probe
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.optim.adamw import build_optimizer, set_learning_rate
from longcat.stages.train.optim.kinds import initial_std
from longcat.stages.train.parallel.placement import new_model

COORD_CHECK_FILE = "coord_check.json"
PAGE_FILE = "coord_check.html"
MODES = ("with transfer", "without")


def run_coord_check(context: Context[CoordCheckConfig]) -> Result:
    """Run stage `train.coord-check`; see `stages.train.coord_check`."""
    config, tokens = context.config, context.input("tokens")
    widths = width_table(config)
    choices = [(mode, row) for mode in MODES for row in widths]
    tasks = [
        {"config": config.model_dump(mode="json"), "tokens": str(tokens.path), "mode": mode, "widths": row}
        for mode, row in choices
    ]
    found = context.map_shards(run_width, tasks, description="widths")
    runs = [
        {"mode": mode, "hidden_size": row["hidden_size"], "diverged": figures["diverged"], "steps": figures["steps"]}
        for (mode, row), figures in zip(choices, found, strict=True)
    ]
    slopes = {mode: slopes_of([run for run in runs if run["mode"] == mode]) for mode in MODES}
    verdicts = [verdict(mode, slopes[mode], config.tolerance) for mode in MODES]
    by_kind = exponents(
        [row["hidden_size"] for row in widths],
        [figures["parameters"] for (mode, _), figures in zip(choices, found, strict=True) if mode == MODES[0]],
        config.optimizer.hidden_update,
    )
    report = {"widths": widths, "runs": runs, "slopes": slopes, "verdicts": verdicts, "exponents_by_kind": by_kind}
    atomic_write(context.output / COORD_CHECK_FILE, pretty_json(report))
    atomic_write(context.output / PAGE_FILE, page(runs).encode())
    metrics = {"verdict": verdicts, "exponents_by_kind": by_kind, "follows_table": follows_table(by_kind)}
    return Result(counts={"runs": len(runs), "steps": config.steps}, metrics=metrics)


def run_width(task: dict[str, Any]) -> dict[str, Any]:
    """Train one width; `steps` holds the figures of every forward pass, starting before the first step.

    `parameters` are those of `KindProbe` at the first step. A diverging training ends early with `diverged` set.
    """
    config = CoordCheckConfig.model_validate(task["config"])
    tokens = load_artifact(Path(task["tokens"]))
    options = TrainConfig(steps=1, device=config.device, dtype="float32")
    scale = task["widths"]["scale"] if task["mode"] == MODES[0] else 1.0
    with reproducible(config.threads):
        device = choose_device(options.device)
        architecture = _architecture(config, task["widths"], tokens)
        std = initial_std(architecture.initializer_range, config.kinds, scale)
        model = new_model(architecture, config.seed, device, std)
        optimizer = build_optimizer(model, config.optimizer, config.kinds, scale)
        set_learning_rate(optimizer, config.learning_rate)
        data = training_windows(tokens.path, sequence_length=config.sequence_length, seed=config.seed)
        steps: list[dict[str, float]] = []
        kinds = KindProbe(model)
        with Probe(model).attached() as probe:
            for step in range(config.steps + 1):
                ids = torch.from_numpy(batch(data, step * config.batch_size, config.batch_size).ids).to(device)
                loss_sum, count, output = model.loss(ids[:, :-1], ids[:, 1:])
                loss = loss_sum / count
                figures = dict(sorted((probe.read(output) | {"loss": loss.item()}).items()))
                if not all(map(math.isfinite, figures.values())):
                    return {"steps": steps, "diverged": True, "parameters": kinds.found()}
                steps.append(figures)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.gradient_clip)
                optimizer.step()
                if step == 0:
                    kinds.read_step(optimizer)
                optimizer.zero_grad(set_to_none=True)
    return {"steps": steps, "diverged": False, "parameters": kinds.found()}


def _architecture(config: CoordCheckConfig, widths: Mapping[str, Any], tokens: Any) -> ModelConfig:
    changes = config.model | {name: value for name, value in widths.items() if name != "scale"}
    return new_architecture(config.preset, changes, tokens)


def slopes_of(runs: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Slope of log RMS against log width, by quantity and step; 0 is constant, 1 proportional.

    Steps that a diverged width did not reach are omitted.
    """
    widths = [math.log(run["hidden_size"]) for run in runs]
    found: dict[str, list[float]] = {}
    for figures in zip(*(run["steps"] for run in runs), strict=False):
        for quantity in figures[0]:
            values = [math.log(max(figure[quantity], 1e-30)) for figure in figures]
            found.setdefault(quantity, []).append(slope(widths, values))
    return found


def verdict(mode: str, slopes: Mapping[str, Sequence[float]], tolerance: float) -> dict[str, Any]:
    """Dependence of activations on the width at the last step that all widths reached, with the steepest ones.

    Growth makes a learning rate too large on a wider model. Shrinking activations learn more slowly there: full
    alignment divides by the maximum size of an update, and real updates are smaller.
    """
    last = {quantity: values[-1] for quantity, values in slopes.items() if quantity != "loss"}
    if not last:
        return {"mode": mode, "verdict": "diverged"}
    most, least = max(last, key=lambda name: last[name]), min(last, key=lambda name: last[name])
    found = "grow" if last[most] > tolerance else "shrink" if last[least] < -tolerance else "level"
    return {
        "mode": mode,
        "verdict": found,
        "grows_most": most,
        "slope": last[most],
        "shrinks_most": least,
        "least_slope": last[least],
    }


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """Self-contained HTML page: one row per quantity, the two modes side by side."""
    quantities = list(dict.fromkeys(key for run in runs for figures in run["steps"] for key in figures))
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{plot(quantity, mode, [run for run in runs if run['mode'] == mode])}</td>" for mode in MODES)
        + "</tr>\n"
        for quantity in quantities
    )
    return f'<!doctype html>\n<meta charset="utf-8">\n<title>Coordinate check</title>\n<table>\n{rows}</table>\n'


def plot(quantity: str, mode: str, runs: Sequence[Mapping[str, Any]]) -> str:
    """Plot of the quantity against the width, one curve per step."""
    steps = min(len(run["steps"]) for run in runs)
    shown = sorted({round(index * (steps - 1) / 5) for index in range(6)}) if steps else []
    lines = [
        Line.through(
            f"after {step} steps",
            [(run["hidden_size"], max(run["steps"][step][quantity], 1e-30)) for run in runs],
        )
        for step in shown
    ]
    label = "loss" if quantity == "loss" else "root mean square"
    panel = Panel(f"{quantity}, {mode}", "width", lines, y_label=label, x_log=True, y_log=True)
    return draw([panel], width=480, height=320)
