"""Shard by shard through an engine, each finished shard remembered on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from longcat.pipeline.engine import Engine
from longcat.pipeline.files import atomic_write, canonical_json, read_json
from longcat.pipeline.progress import Bar

T = TypeVar("T")


def map_shards(
    engine: Engine, function: Callable[[T], dict[str, Any]], tasks: Sequence[T], done: Path, bar: Bar
) -> list[dict[str, Any]]:
    """Results of `function` over `tasks`, in task order; those recorded in the folder `done` are not run again."""
    done.mkdir(parents=True, exist_ok=True)
    results: dict[int, dict[str, Any]] = {}
    for index in range(len(tasks)):
        recorded = _read_record(done / _record_name(index))
        if recorded is not None:
            results[index] = recorded
            bar.advance()
    missing = [index for index in range(len(tasks)) if index not in results]
    for position, result in engine.run(function, [tasks[index] for index in missing]):
        atomic_write(done / _record_name(missing[position]), canonical_json(result))
        results[missing[position]] = result
        bar.advance()
    return [results[index] for index in range(len(tasks))]


def _record_name(index: int) -> str:
    return f"{index:06d}.json"


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = read_json(path)
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None
