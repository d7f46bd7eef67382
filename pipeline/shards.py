"""Resumable shard-by-shard processing: each finished shard is recorded on disk with the files it wrote.

A record holds the sizes and digests of its files and is valid only while they match; a shard whose files were lost or
changed is processed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from longcat.pipeline.engine import Engine
from longcat.pipeline.engine.local import available_cores
from longcat.pipeline.files import atomic_write, canonical_json, read_json, sha256_file, written_files
from longcat.pipeline.progress import Bar

T = TypeVar("T")


@dataclass(frozen=True)
class Recorded(Generic[T]):
    """Task function that also returns the files it wrote: `{"result": ..., "files": [[path, size, sha256]]}`.

    Paths below `root` are stored relative to it, so that progress can be moved.
    """

    function: Callable[[T], dict[str, Any]]
    root: Path

    def __call__(self, task: T) -> dict[str, Any]:
        with written_files() as written:
            result = self.function(task)
        left = [path for path in dict.fromkeys(written) if path.is_file()]  # a task may delete its own scratch files
        return {"result": result, "files": [file_record(path, self.root) for path in left]}


def file_record(path: Path, root: Path) -> list[Any]:
    """Record entry of a file: path, size in bytes and SHA-256."""
    name = path.relative_to(root) if path.is_relative_to(root) else path
    return [str(name), path.stat().st_size, sha256_file(path)]


def same_files(files: Any, root: Path) -> bool:
    """Whether every file of a record exists with unchanged bytes."""
    try:
        return all(
            (path := root / name).is_file() and path.stat().st_size == size and sha256_file(path) == digest
            for name, size, digest in files
        )
    except (OSError, TypeError, ValueError):
        return False


def map_shards(
    engine: Engine, function: Callable[[T], dict[str, Any]], tasks: Sequence[T], done: Path, root: Path, bar: Bar
) -> list[dict[str, Any]]:
    """Results of `function` over `tasks`, in task order; tasks with a valid record in the folder `done` are skipped.

    `root` is the folder above the files of the tasks.
    """
    done.mkdir(parents=True, exist_ok=True)
    results = _recorded(len(tasks), done, root)
    bar.advance(len(results))
    missing = [index for index in range(len(tasks)) if index not in results]
    for position, record in engine.run(Recorded(function, root), [tasks[index] for index in missing]):
        whole = {"tasks": len(tasks), **record}
        atomic_write(done / _record_name(missing[position]), canonical_json(whole))
        results[missing[position]] = record["result"]
        bar.advance()
    return [results[index] for index in range(len(tasks))]


def _recorded(count: int, done: Path, root: Path) -> dict[int, dict[str, Any]]:
    """Results that can be reused, by task."""

    def take_up(index: int) -> dict[str, Any] | None:
        record = _read_record(done / _record_name(index))
        # A different number of tasks, for example from another memory budget, is a different partition of the work.
        same = record is not None and record["tasks"] == count and same_files(record["files"], root)
        return record["result"] if record is not None and same else None

    present = [index for index in range(count) if (done / _record_name(index)).exists()]
    with ThreadPoolExecutor(available_cores()) as pool:  # hashing releases the GIL
        found = zip(present, pool.map(take_up, present), strict=True)
        return {index: result for index, result in found if result is not None}


def _record_name(index: int) -> str:
    return f"{index:06d}.json"


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = read_json(path, file_names=True)
    except (FileNotFoundError, ValueError):
        return None
    kinds = {"tasks": int, "result": dict, "files": list}
    whole = isinstance(record, dict) and all(isinstance(record.get(key), kind) for key, kind in kinds.items())
    return record if whole else None
