"""Shard by shard through an engine, each finished shard remembered on disk together with the files it wrote.

A record is believed only with its files: it holds their sizes and digests, and one whose files are gone or are not the
same bytes any more counts for nothing, so that what a kill, a deletion or a disk has taken is made again.
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
    """A task function that also says which files it put in place: `{"result": ..., "files": [[path, size, sha256]]}`.

    Paths below `root` are kept relative to it, so that progress may be moved.
    """

    function: Callable[[T], dict[str, Any]]
    root: Path

    def __call__(self, task: T) -> dict[str, Any]:
        with written_files() as written:
            result = self.function(task)
        left = [path for path in dict.fromkeys(written) if path.is_file()]  # a task may drop scratch of its own
        return {"result": result, "files": [file_record(path, self.root) for path in left]}


def file_record(path: Path, root: Path) -> list[Any]:
    """What a record holds of a file: its path, size in bytes and sha256."""
    name = path.relative_to(root) if path.is_relative_to(root) else path
    return [str(name), path.stat().st_size, sha256_file(path)]


def same_files(files: Any, root: Path) -> bool:
    """Whether every file of a record is there with the bytes it had."""
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
    """Results of `function` over `tasks`, in task order; those recorded whole in the folder `done` are not run again.

    `root` is the folder that the files of the tasks lie below.
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
    """The results that can be taken up, by task."""

    def take_up(index: int) -> dict[str, Any] | None:
        record = _read_record(done / _record_name(index))
        # Another number of tasks, as another memory budget makes it, is another division of the work.
        same = record is not None and record["tasks"] == count and same_files(record["files"], root)
        return record["result"] if record is not None and same else None

    present = [index for index in range(count) if (done / _record_name(index)).exists()]
    with ThreadPoolExecutor(available_cores()) as pool:  # hashing leaves the interpreter free
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
