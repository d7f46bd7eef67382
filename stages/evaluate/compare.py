"""Comparison of evaluations: metrics by row, checkpoints by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError, UsageError
from longcat.pipeline.files import read_json

FILE = "evaluation.json"
LENGTH = ", length "
ORDER = (
    "loss",
    "standard error of the loss",
    "bits per byte",
    "perplexity",
    "needle accuracy",
    "recall",
    "loss by position",
    "FFN experts per token",
    "parameters",
    "activated parameters",
    "context",
    "trained on tokens",
)
Figures = dict[str, float | int | None]


@dataclass(frozen=True)
class Column:
    """Results of one checkpoint in one evaluation."""

    title: str
    evaluation: str
    checkpoint: str
    figures: Figures


@dataclass(frozen=True)
class Row:
    """One figure per column, and its difference from the first column; None if missing."""

    metric: str
    values: list[float | int | None]
    differences: list[float | int | None]


@dataclass(frozen=True)
class Comparison:
    """Table of rows and columns, with warnings about figures that are not comparable."""

    columns: list[Column]
    rows: list[Row]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        return {
            "checkpoints": [
                {"label": column.title, "id": column.checkpoint, "evaluation": column.evaluation}
                for column in self.columns
            ],
            "metrics": [
                {"metric": row.metric, "values": row.values, "differences": row.differences} for row in self.rows
            ],
            "notes": self.notes,
        }


def read_evaluation(artifact: Artifact) -> dict[str, Any]:
    """Read all figures of an evaluation.

    Raises:
        UsageError: the artifact is not an evaluation.
        IntegrityError: its file is missing or damaged.
    """
    if artifact.kind != "evaluation":
        hint = "see `longcat artifacts list --kind evaluation`"
        raise UsageError(f"{artifact.kind}/{artifact.id} is not an evaluation", hint=hint)
    path = artifact.file(FILE)
    try:
        found: dict[str, Any] = read_json(path)
        if not found["checkpoints"]:
            raise ValueError("no checkpoints")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"not an evaluation: {error}", where=str(path)) from None
    return found


def compare(evaluations: Sequence[tuple[str, Artifact]]) -> Comparison:
    """Compare all checkpoints of evaluations, given with their names.

    Raises:
        UsageError, IntegrityError: see `read_evaluation`.
    """
    read = [(name, artifact, read_evaluation(artifact)) for name, artifact in evaluations]
    labels = [result["label"] for _, _, evaluation in read for result in evaluation["checkpoints"]]
    columns = []
    for name, artifact, evaluation in read:
        for result in evaluation["checkpoints"]:
            label = result["label"]
            title = label if labels.count(label) == 1 else f"{label} of {name}"
            columns.append(Column(title, artifact.id, result["id"], dict(_figures(result))))
    metrics = sorted({key for column in columns for key in column.figures}, key=_place)
    rows = [_row(metric, [column.figures.get(metric) for column in columns]) for metric in metrics]
    return Comparison(columns, rows, list(_notes([(artifact, evaluation) for _, artifact, evaluation in read])))


def _row(metric: str, values: list[float | int | None]) -> Row:
    first = values[0]
    differences = [
        None if place == 0 or value is None or first is None else _rounded(value - first)
        for place, value in enumerate(values)
    ]
    return Row(metric, values, differences)


def _rounded(value: float | int) -> float | int:
    return round(value, 6) if isinstance(value, float) else value


def _place(metric: str) -> tuple[int, int]:
    """Sort key of a metric among the rows; needles by length."""
    name, _, length = metric.partition(LENGTH)
    return ORDER.index(name), int(length.replace(",", "") or 0)


def _figures(result: dict[str, Any]) -> Iterator[tuple[str, float | int | None]]:
    validation, needle = result["validation"], result["needle"]
    yield "loss", validation["loss"]
    yield "standard error of the loss", validation["standard_error"]
    yield "bits per byte", validation["bits_per_byte"]
    yield "perplexity", validation["perplexity"]
    if needle["cells"]:
        yield "needle accuracy", needle["top1"]
    for length in dict.fromkeys(cell["length"] for cell in needle["cells"]):
        cells = [cell for cell in needle["cells"] if cell["length"] == length]
        yield f"needle accuracy{LENGTH}{length:,}", weighted_mean(cells, "top1")
    yield from _of_recall(result.get("recall", {}).get("cells", []))
    for bucket in result.get("positions", {}).get("buckets", []):
        yield f"loss by position{LENGTH}{bucket['to']:,}", bucket["loss"]
    yield "FFN experts per token", validation["ffn_experts"]
    yield "parameters", result["parameters"]
    yield "activated parameters", result["activated_parameters"]
    yield "context", result["context"]
    yield "trained on tokens", result["training_tokens"]


def _of_recall(cells: Sequence[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    if cells:
        yield "recall", weighted_mean(cells, "recalled")
    for length in dict.fromkeys(cell["length"] for cell in cells):
        yield (
            f"recall{LENGTH}{length:,}",
            weighted_mean([cell for cell in cells if cell["length"] == length], "recalled"),
        )


def weighted_mean(cells: Sequence[dict[str, Any]], name: str) -> float:
    """Mean of a figure over all trials of needle cells."""
    return float(sum(cell[name] * cell["trials"] for cell in cells) / sum(cell["trials"] for cell in cells))


def _notes(read: Sequence[tuple[Artifact, dict[str, Any]]]) -> Iterator[str]:
    """Reasons why figures of different evaluations may not be comparable."""
    artifact, first = read[0]
    others = read[1:]
    if any(other["tokens"] != first["tokens"] for _, other in others):
        yield "measured on different tokens: losses are not comparable, bits per byte only if the texts are similar"
    elif any(other["validation"] != first["validation"] for _, other in others):
        yield "measured on different windows of the same tokens: small differences in loss are not significant"
    if any(_needles(other) != _needles(artifact) for other, _ in others):
        yield "measured with different needles, facts or documents: compare figures of the same length only"


def _needles(artifact: Artifact) -> dict[str, Any]:
    config = artifact.manifest.config
    return {key: config.get(key) for key in ("needle", "recall", "positions", "seed")}
