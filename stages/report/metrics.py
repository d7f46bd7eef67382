"""metrics.jsonl and the run log as columns of numbers, read line by line so that long runs fit in memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from longcat.pipeline.errors import IntegrityError
from longcat.stages.report.load import LoadHistory

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

# Fields of metrics.jsonl that are plotted. Per-layer fields hold one number per layer.
SCALARS = (
    "tokens",
    "loss",
    "validation_loss",
    "mtp_loss",
    "hidden_z_loss",
    "balance_loss",
    "balance_coefficient",
    "balance_gain",
    "learning_rate",
    "gradient_norm",
    "imbalance",
    "budget_ratio",
    "coverage_loss",
)
OF_LAYERS = ("active_experts", "active_experts_std")
STABILITY_OF_LAYERS = ("balance_gradient_ratio", "router_cosine", "largest_activation")
STABILITY_OF_GROUPS = ("gradient_rms", "parameter_rms")
OF_THE_LOG = ("tokens_per_second", "mfu", "memory_bytes", "seconds")


@dataclass
class Column:
    """One curve, or `width` curves with shared steps; values [n, width], NaN if missing."""

    width: int
    steps: array[int] = field(default_factory=lambda: array("q"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def arrays(self) -> tuple[Steps, Floats]:
        """Steps [n], ascending and unique, and values [n, width]; of duplicate steps the last one is kept."""
        steps = np.frombuffer(self.steps, dtype=np.int64)
        values = np.frombuffer(self.values, dtype=np.float64).reshape(-1, self.width)
        unique, from_the_end = np.unique(steps[::-1], return_index=True)
        return unique, values[::-1][from_the_end]


@dataclass
class Metrics:
    """Data of a run's files: columns by field name, expert load by layer, and steps with events."""

    columns: dict[str, Column] = field(default_factory=dict)
    load: LoadHistory | None = None
    skipped: list[int] = field(default_factory=list)
    rewound: list[tuple[int, int, int]] = field(default_factory=list)  # step, rollback step, samples skipped

    def add(self, name: str, step: int, value: Any) -> None:
        """Append one value, a number or a list of them.

        Raises:
            TypeError: it is neither. ValueError: the list length differs from before.
        """
        items = value if isinstance(value, list) else (value,)
        column = self.columns.setdefault(name, Column(len(items)))
        if column.width != len(items):
            raise ValueError(f"{len(items)} values, {column.width} in earlier lines")
        column.values.extend([float("nan") if item is None else item for item in items])
        column.steps.append(step)

    def get(self, name: str) -> tuple[Steps, Floats] | None:
        column = self.columns.get(name)
        return column.arrays() if column and column.steps and column.width else None


def read_metrics_files(paths: Iterable[Path], *, growing: bool) -> Metrics:
    """Records of one run, stored in several consecutive files.

    `growing`: a process may be writing, so that an incomplete last line is not an error.

    Raises:
        IntegrityError: a line is damaged; names file, line and field.
    """
    metrics = Metrics()
    for path in paths:
        for number, record in _records(path, growing=growing):
            try:
                _add_record(metrics, record)
            except (TypeError, ValueError, LookupError, AttributeError, OverflowError) as error:
                raise IntegrityError(
                    f"not a line of a run's metrics: {error.__class__.__name__} {error}", where=f"{path}:{number}"
                ) from None
    return metrics


def _records(path: Path, *, growing: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if growing and not line.endswith(b"\n"):
                return
            try:
                record = orjson.loads(line)
            except ValueError:
                raise IntegrityError("not a line of JSON", where=f"{path}:{number}") from None
            if not isinstance(record, dict) or not isinstance(record.get("step"), int):
                raise IntegrityError("the line has no step", where=f"{path}:{number}")
            yield number, record


def _add_record(metrics: Metrics, record: Mapping[str, Any]) -> None:
    step = record["step"]
    for name in (*SCALARS, *OF_LAYERS):
        if name in record:
            _add(metrics, name, step, record[name])
    for name, value in record.get("stability", {}).items():
        if name in STABILITY_OF_LAYERS:
            _add(metrics, f"stability.{name}", step, value)
        elif name in STABILITY_OF_GROUPS:
            for group, item in value.items():
                _add(metrics, f"stability.{name}.{group}", step, item)
    if "expert_load" in record:
        if metrics.load is None:
            metrics.load = LoadHistory(record["expert_load"])
        metrics.load.add(step, record["expert_load"])
    if record.get("skipped"):
        metrics.skipped.append(step)
    if "rewound" in record:
        rewound = record["rewound"]
        metrics.rewound.append((rewound["from_step"], rewound["to_step"], rewound["samples_skipped"]))


def _add(metrics: Metrics, name: str, step: int, value: Any) -> None:
    try:
        metrics.add(name, step, value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"in {name!r}: {error}") from None


def read_run_log(path: Path) -> tuple[Metrics, dict[str, Any]]:
    """Speed and memory from a run's log, and the log's line about watched quantities (empty: none).

    Unreadable lines are skipped: the log is not part of an artifact and may lose its last line in a crash.
    """
    metrics, facts = Metrics(), dict[str, Any]()
    if not path.is_file():
        return metrics, facts
    with path.open("rb") as stream:
        for line in stream:
            try:
                event = orjson.loads(line)
                kind = event.get("event")
                if kind == "watch":
                    facts = event
                elif kind == "start":
                    facts["name"] = event.get("name")
                elif kind == "step":
                    for name in OF_THE_LOG:
                        if name in event:
                            metrics.add(name, event["step"], event[name])
            except (ValueError, TypeError, AttributeError, KeyError):
                continue
    return metrics, facts
