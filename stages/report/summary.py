"""Tables of the page: results, configuration and lineage of each run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from longcat.pipeline.lineage import flatten, lineage
from longcat.pipeline.store import Store
from longcat.pipeline.values import written
from longcat.stages.report.metrics import Metrics
from longcat.stages.report.runs import ReportedRun

RECENT_STEPS = 20

Figures = dict[str, Any]


def figures(run: ReportedRun) -> Figures:
    """Results of a run, in plain units, as far as recorded."""
    found: Figures = {"name": run.label, "id": run.identifier}
    manifest = run.artifact.manifest if run.artifact else None
    if manifest is not None:
        found |= {"stage": manifest.stage, "parameters": manifest.counts.get("parameters")}
    found |= _progress(run.metrics) | _losses(run)
    if (column := run.metrics.get("active_experts")) is not None:
        found["active_experts"] = float(np.nanmean(column[1][-RECENT_STEPS:]))
    found["target_active_experts"] = run.target_active_experts
    found |= {"skipped_steps": len(run.metrics.skipped), "rewinds": len(run.metrics.rewound)}
    found |= _speed(run.speed)
    if manifest is not None:
        found |= {"started": manifest.started, "duration_seconds": manifest.duration_seconds}
        found["code_version"] = manifest.code_version
    return {key: value for key, value in found.items() if value is not None}


def _progress(metrics: Metrics) -> Figures:
    found: Figures = {}
    if (loss := metrics.get("loss")) is not None:
        found |= {"steps": len(loss[0]), "last_step": int(loss[0][-1])}
    if (tokens := metrics.get("tokens")) is not None:
        found["total_tokens"] = int(tokens[1][-1, 0])
    return found


def _losses(run: ReportedRun) -> Figures:
    found: Figures = {}
    if (loss := run.metrics.get("loss")) is not None:
        found["train_loss"] = float(np.nanmean(loss[1][-RECENT_STEPS:]))
    if (validation := run.metrics.get("validation_loss")) is not None:
        found["validation_loss"] = float(validation[1][-1, 0])
        found["best_validation_loss"] = float(np.nanmin(validation[1]))
    final = found.get("validation_loss", found.get("train_loss"))
    if final is not None and math.isfinite(final):
        found |= {"perplexity": math.exp(min(final, 700)), "bits_per_token": final / math.log(2)}
    if run.artifact is not None and "unigram_loss" in run.artifact.manifest.metrics:
        found["unigram_loss"] = run.artifact.manifest.metrics["unigram_loss"]
    return found


def _speed(speed: Metrics) -> Figures:
    found: Figures = {}
    for field, name, summarize in (
        ("tokens_per_second", "tokens_per_second", np.median),
        ("mfu", "mfu", np.median),
        ("memory_bytes", "peak_memory_bytes", np.max),
        ("seconds", "step_seconds", np.median),
    ):
        if (column := speed.get(field)) is not None:
            found[name] = float(summarize(column[1]))
    return found


Format = Callable[[Any], str]


def _count(value: Any) -> str:
    return f"{value:,}"


def _fixed(value: Any) -> str:
    return f"{value:.4f}"


def _plain(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else written(value)


def _gigabytes(value: Any) -> str:
    return f"{value / 1e9:.2f} GB"


def _time(seconds: Any) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


# Rows of the summary: key of `figures`, label, format.
ROWS: tuple[tuple[str, str, Format], ...] = (
    ("id", "Artifact", str),
    ("stage", "Stage", str),
    ("parameters", "Parameters", _count),
    ("steps", "Steps", _count),
    ("last_step", "Last step", _count),
    ("total_tokens", "Total tokens", _count),
    ("train_loss", "Training loss, last 20 steps", _fixed),
    ("validation_loss", "Validation loss", _fixed),
    ("best_validation_loss", "Best validation loss", _fixed),
    ("unigram_loss", "Unigram loss", _fixed),
    ("perplexity", "Perplexity per token", lambda value: f"{value:,.2f}"),
    ("bits_per_token", "Bits per token", _fixed),
    ("active_experts", "Activated FFN experts", lambda value: f"{value:.3f}"),
    ("target_active_experts", "Target FFN experts, Kₑ", lambda value: f"{value:.3f}"),
    ("skipped_steps", "Steps skipped", _count),
    ("rewinds", "Rewinds", _count),
    ("tokens_per_second", "Tokens per second, median", lambda value: f"{value:,.0f}"),
    ("mfu", "MFU, median", lambda value: f"{value:.1%}"),
    ("peak_memory_bytes", "Peak memory", _gigabytes),
    ("step_seconds", "Time per step, median", _time),
    ("duration_seconds", "Stage duration", _time),
    ("started", "Started", str),
    ("code_version", "Code", str),
)

Table = list[tuple[str, list[str]]]


def summary_table(found: Sequence[Figures]) -> Table:
    """One row per figure, one cell per run; empty rows are omitted."""
    rows: Table = []
    for key, label, write in ROWS:
        if any(key in item for item in found):
            rows.append((label, [write(item[key]) if key in item else "" for item in found]))
    return rows


def configuration_table(runs: Sequence[ReportedRun]) -> Table:
    """All configuration keys of the stages and architectures, one cell per run."""
    return _side_by_side([_configuration(run) for run in runs])


def _configuration(run: ReportedRun) -> dict[str, Any]:
    stage = flatten(run.artifact.manifest.config) if run.artifact else {}
    return stage | {f"architecture.{key}": value for key, value in flatten(run.model).items()}


def environment_table(runs: Sequence[ReportedRun]) -> Table:
    """Versions and machine, one cell per run."""
    found = []
    for run in runs:
        machine: dict[str, Any] = dict(run.artifact.manifest.environment) if run.artifact else {}
        kept = ("device", "dtype", "devices", "peak_flops")
        found.append(machine | {key: run.facts[key] for key in kept if key in run.facts})
    return _side_by_side(found)


def _side_by_side(found: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for item in found for key in item))
    return [(key, [_plain(item[key]) if key in item else "" for item in found]) for key in keys]


def lineages(store: Store, runs: Sequence[ReportedRun]) -> list[dict[str, Any] | None]:
    """Lineage of each run; None for a run that is not an artifact."""
    return [lineage(store, run.artifact) if run.artifact else None for run in runs]
