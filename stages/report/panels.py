"""Plots: sections of panels, each a set of curves over the steps of one or several runs.

A curve belongs to a run and has a hue: its run's colour, a position on the layer colour ramp, or a colour among the
curves of the panel. With several runs the layers of each become one mean curve with a band from minimum to maximum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longcat.stages.report.metrics import Floats, Metrics, Steps
from longcat.stages.report.reduce import bends, reduced, rounded
from longcat.stages.report.runs import ReportedRun

Panel = dict[str, Any]
Line = dict[str, Any]

# Total points per panel, and minimum and maximum points per curve.
PANEL_POINTS, FEWEST_POINTS, MOST_POINTS = 2400, 120, 480
MOST_MARKS = 500
# Up to this many heat maps are shown side by side; beyond, one with a layer selector.
MAPS_SIDE_BY_SIDE = 6


@dataclass(frozen=True)
class Kind:
    """A panel of one field: `unit` is the format of values, `bound` an upper limit drawn as a line."""

    field: str
    title: str
    unit: str = "number"
    note: str = ""
    log: bool = False
    smooth: bool = False
    marks: bool = False
    bound: tuple[float, str] | None = None


LOSSES = (
    Kind("loss", "Loss", note="nats per token", smooth=True, marks=True),
    Kind("mtp_loss", "MTP loss", note="multi-token prediction", smooth=True),
    Kind("hidden_z_loss", "Hidden z-loss", smooth=True, log=True),
    Kind("balance_loss", "Balance loss", smooth=True),
)
OPTIMIZATION = (
    Kind("gradient_norm", "Gradient norm", note="before clipping", smooth=True, marks=True),
    Kind("learning_rate", "Learning rate"),
    Kind("balance_gain", "Gain of the balance controller"),
    Kind("balance_coefficient", "Coefficient of the balance loss", log=True),
)
EXPERTS = (
    Kind("active_experts", "Activated FFN experts", note="mean over tokens", smooth=True),
    Kind("active_experts_std", "Spread of activated experts", note="standard deviation over tokens", smooth=True),
)
STABILITY = (
    Kind(
        "stability.balance_gradient_ratio",
        "Gradient ratio, balance loss to loss",
        log=True,
        bound=(0.1, "should stay below 0.1"),
    ),
    Kind("stability.router_cosine", "Router similarity", note="mean cosine similarity of experts"),
    Kind("stability.largest_activation", "Largest activation", log=True),
)
GROUPS = (
    Kind("stability.gradient_rms.", "Gradient RMS", note="by parameter group", log=True),
    Kind("stability.parameter_rms.", "Parameter RMS", note="by parameter group", log=True),
)
PROCESSES = (
    Kind("imbalance", "Predicted imbalance", note="attention of the slowest group of processes, relative to the mean"),
    Kind("budget_ratio", "Keys per token", note="relative to the budget of the model"),
    Kind("coverage_loss", "Largest loss of coverage", unit="percent", note="attention mass, by smaller budgets"),
)
SPEED = (
    Kind("tokens_per_second", "Throughput", unit="si", note="tokens per second", smooth=True),
    Kind("mfu", "Model FLOPs utilisation", unit="percent", note="fraction of the devices' peak", smooth=True),
    Kind("memory_bytes", "Memory", unit="bytes"),
    Kind("seconds", "Time per step", unit="seconds", smooth=True),
)


def sections(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """All sections for these runs, from top to bottom; panels without data are omitted."""
    losses = [_scalar_panel(kind, runs) for kind in LOSSES]
    if losses[0] is not None:
        _add_validation(losses[0], runs)
    experts = [_layer_panel(kind, runs) for kind in EXPERTS]
    if experts[0] is not None:
        experts[0]["targets"] = _expert_targets(runs)
    found: list[tuple[str, list[Panel | None]]] = [
        ("Loss", losses),
        ("Optimization", [_scalar_panel(kind, runs) for kind in OPTIMIZATION]),
        ("Experts", [*experts, *_load_panels(runs)]),
        (
            "Stability",
            [*(_layer_panel(kind, runs) for kind in STABILITY), *(_group_panel(kind, runs) for kind in GROUPS)],
        ),
        ("Balance between processes", [_scalar_panel(kind, runs) for kind in PROCESSES]),
        ("Speed", [_scalar_panel(kind, runs, of_log=True) for kind in SPEED]),
    ]
    filled = [(title, [panel for panel in panels if panel is not None]) for title, panels in found]
    return [{"title": title, "panels": panels} for title, panels in filled if panels]


def axes(run: ReportedRun) -> dict[str, Any]:
    """Run metadata for the page: name, tokens by step, and events."""
    column = run.metrics.get("tokens")
    steps, tokens = bends(column[0], column[1][:, 0]) if column else ([], [])
    return {
        "name": run.label,
        "steps": steps,
        "tokens": tokens,
        "skipped": run.metrics.skipped[:MOST_MARKS],
        "rewound": run.metrics.rewound[:MOST_MARKS],
    }


def loads(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    """Expert load of every run that recorded it."""
    found = []
    for number, run in enumerate(runs):
        load = run.metrics.load
        if load is None:
            continue
        network = run.experts[0] if run.experts and sum(run.experts) == load.experts else load.experts
        item = {"run": number, "layers": load.layers, "experts": load.experts, "network": network, "x": load.ends}
        found.append(item | {"cells": load.encoded()})
    return found


def _panel(kind: Kind, lines: list[Line]) -> Panel | None:
    if not lines:
        return None
    return {
        "type": "lines",
        "id": kind.field.strip("."),
        "title": kind.title,
        "unit": kind.unit,
        "note": kind.note,
        "log": kind.log,
        "smooth": kind.smooth,
        "marks": kind.marks,
        "targets": [{"value": kind.bound[0], "name": kind.bound[1]}] if kind.bound else [],
        "lines": lines,
    }


def _points(curves: int) -> int:
    return min(MOST_POINTS, max(FEWEST_POINTS, PANEL_POINTS // max(1, curves)))


def _columns(runs: Sequence[ReportedRun], field: str, *, of_log: bool = False) -> list[tuple[int, Steps, Floats]]:
    found = []
    for number, run in enumerate(runs):
        metrics: Metrics = run.speed if of_log else run.metrics
        column = metrics.get(field)
        if column is not None:
            found.append((number, *column))
    return found


def _scalar_panel(kind: Kind, runs: Sequence[ReportedRun], *, of_log: bool = False) -> Panel | None:
    lines = []
    for number, steps, values in _columns(runs, kind.field, of_log=of_log):
        curve = reduced(steps, values[:, 0], MOST_POINTS)
        lines.append({"run": number, "name": runs[number].label, "hue": "run", **curve})
    return _panel(kind, lines)


def _add_validation(panel: Panel, runs: Sequence[ReportedRun]) -> None:
    for number, steps, values in _columns(runs, "validation_loss"):
        name = "validation" if len(runs) == 1 else f"{runs[number].label}, validation"
        curve = reduced(steps, values[:, 0], MOST_POINTS)
        hue = {"hue": "series", "place": 1} if len(runs) == 1 else {"hue": "run"}
        panel["lines"].append({"run": number, "name": name, "points": True, **hue, **curve})
    if len(runs) == 1:
        panel["lines"][0]["name"] = "training"
        artifact = runs[0].artifact
        if artifact is not None and (unigram := artifact.manifest.metrics.get("unigram_loss")) is not None:
            panel["targets"] = [{"value": rounded(unigram), "name": "unigram", "optional": True}]


def _layer_panel(kind: Kind, runs: Sequence[ReportedRun]) -> Panel | None:
    lines: list[Line] = []
    for number, steps, values in _columns(runs, kind.field):
        layers = values.shape[1]
        if len(runs) > 1:
            lines.append({"run": number, "name": runs[number].label, "hue": "run", **_span(steps, values)})
            continue
        for layer in range(layers):
            curve = reduced(steps, values[:, layer], _points(layers))
            place = layer / max(1, layers - 1)
            lines.append({"run": number, "name": f"layer {layer}", "hue": "layer", "place": rounded(place), **curve})
    return _panel(kind, lines)


def _span(steps: Steps, values: Floats) -> dict[str, Any]:
    """One curve for all layers: mean, with minimum and maximum."""
    known = np.isfinite(values)
    count = known.sum(axis=1)
    total = np.where(known, values, 0.0).sum(axis=1)
    mean = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    curve = reduced(steps, mean, MOST_POINTS)
    least = reduced(steps, np.where(known, values, np.inf).min(axis=1), MOST_POINTS)
    most = reduced(steps, np.where(known, values, -np.inf).max(axis=1), MOST_POINTS)
    return curve | {"low": least.get("low", least["y"]), "high": most.get("high", most["y"])}


def _group_panel(kind: Kind, runs: Sequence[ReportedRun]) -> Panel | None:
    names = sorted({name for run in runs for name in run.metrics.columns if name.startswith(kind.field)})
    lines: list[Line] = []
    for place, name in enumerate(names):
        group = name.removeprefix(kind.field)
        for number, steps, values in _columns(runs, name):
            label = group if len(runs) == 1 else f"{runs[number].label}, {group}"
            curve = reduced(steps, values[:, 0], _points(len(names) * len(runs)))
            lines.append({"run": number, "name": label, "hue": "series", "place": place, **curve})
    return _panel(kind, lines)


def _expert_targets(runs: Sequence[ReportedRun]) -> list[dict[str, Any]]:
    targets = dict.fromkeys(rounded(run.target_active_experts) for run in runs if run.target_active_experts is not None)
    return [{"value": target, "name": f"target Kₑ = {target:.4g}"} for target in targets if target is not None]


def _load_panels(runs: Sequence[ReportedRun]) -> list[Panel | None]:
    """Heat maps: one per layer if there are few, else one per run."""
    found = loads(runs)
    apart = sum(item["layers"] for item in found) <= MAPS_SIDE_BY_SIDE
    panels: list[Panel | None] = []
    for place, item in enumerate(found):
        layers = list(range(item["layers"]))
        whose = f", {runs[item['run']].label}" if len(runs) > 1 else ""
        for chosen in [[layer] for layer in layers] if apart else [layers]:
            title = f"Load of the experts, layer {chosen[0]}{whose}" if apart else f"Load of the experts{whose}"
            panels.append({"type": "heat", "title": title, "load": place, "layers": chosen, "run": item["run"]})
    return panels
