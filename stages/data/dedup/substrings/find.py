"""Search for repeated substrings; see the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.stage import Context
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.kept import KeptShard
from longcat.stages.data.dedup.runs import BYTES_AN_ENTRY, KEY_SPACE, save_array
from longcat.stages.data.dedup.substrings.windows import Block, Flags, Places, blocks, window_hashes, winnow

_HEADER_BYTES = 128  # an array without rows cannot be mapped

# Sorted scratch arrays [2, n]: hashes and positions, or ends and starts of removed substrings.
Pairs = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class HashTask:
    """Task: write hashes of a shard into sorted runs `FOLDER/NAME-0000.npy`, ...; positions are those in the shard.

    Without `repeated` the fingerprints, with it all windows of `size` characters around the fingerprints in these files
    of hashes; `runs` are then the fingerprints of the shard.
    """

    source: KeptShard
    folder: Path
    name: str
    size: int
    memory_bytes: int
    repeated: tuple[Path, ...] | None = None
    runs: tuple[Path, ...] = ()


@dataclass(frozen=True)
class RangeTask:
    """Task: compare the hashes of one range in all runs, whose shards begin at the given positions."""

    runs: tuple[tuple[Path, int], ...]
    part: int
    parts: int
    size: int
    output: Path


@dataclass(frozen=True)
class Removals:
    """Files of removed substrings, and the position of the first character of every shard."""

    files: tuple[Path, ...]
    starts: tuple[int, ...]


def find_substrings(context: Context[DedupConfig], sources: Sequence[KeptShard], own: int) -> Removals:
    """Substrings to remove from the first `own` shards; the others, of earlier corpora, come first in order."""
    size, memory, work = context.config.substrings.min_characters, context.config.memory_bytes, context.work
    ordered = [*range(own, len(sources)), *range(own)]
    tasks = [HashTask(sources[at], work, f"marks-{at:05d}", size, memory) for at in ordered]
    marked = context.map_shards(write_hashes, tasks, description="fingerprinting")
    starts = np.concatenate(([0], np.cumsum([result["characters"] for result in marked])))[:-1].tolist()
    runs = [_runs(task, result) for task, result in zip(tasks, marked, strict=True)]

    ranges = _ranges(work, "repeated", [(run, 0) for of_shard in runs for run in of_shard], size, memory)
    context.map_shards(repeated_hashes, ranges, description="matching fingerprints")
    repeated = tuple(task.output for task in ranges)
    tasks = [
        HashTask(sources[at], work, f"windows-{at:05d}", size, memory, repeated, of_shard)
        for at, of_shard in zip(ordered, runs, strict=True)
    ]
    results = context.map_shards(write_hashes, tasks, description="hashing substrings")
    placed = [
        (run, start) for task, result, start in zip(tasks, results, starts, strict=True) for run in _runs(task, result)
    ]
    ranges = _ranges(work, "removed", placed, size, memory)
    context.map_shards(later_windows, ranges, description="matching substrings")
    of_shard = dict(zip(ordered, starts, strict=True))
    return Removals(tuple(task.output for task in ranges), tuple(of_shard[at] for at in range(own)))


def write_hashes(task: HashTask) -> dict[str, Any]:
    """See `HashTask`; returns the number of runs and of characters."""
    marked = _marked(task.runs, task.repeated) if task.repeated is not None else None
    pending: list[Pairs] = []
    entries = runs = characters = 0

    def write() -> None:
        nonlocal pending, entries, runs
        joined = np.concatenate(pending, axis=1)
        save_array(_run(task, runs), joined[:, np.argsort(joined[0], kind="stable")])
        pending, entries, runs = [], 0, runs + 1

    def counted() -> Any:
        nonlocal characters
        for text in task.source.texts():
            characters += len(text)
            yield text

    for block in blocks(counted(), task.size):
        found = _fingerprints(block, task.size) if marked is None else _windows(block, marked, task.size)
        if found.shape[1]:
            pending.append(found)
            entries += found.shape[1]
        if entries * BYTES_AN_ENTRY >= task.memory_bytes:
            write()
    if pending:
        write()
    return {"runs": runs, "characters": characters}


def repeated_hashes(task: RangeTask) -> dict[str, Any]:
    """Write the hashes of a range that occur more than once, sorted."""
    hashes, counts = np.unique(_range(task)[0], return_counts=True)
    save_array(task.output, hashes[counts > 1])
    return {"repeated": int((counts > 1).sum())}


def later_windows(task: RangeTask) -> dict[str, Any]:
    """Write end and start of what is removed for every window that occurred before, by end.

    A window that overlaps its first occurrence is removed from the end of that one on.
    """
    hashes, positions = _range(task)
    order = np.lexsort((positions, hashes))
    hashes, positions = hashes[order], positions[order]
    heads = np.ones(len(hashes), dtype=np.bool_)
    heads[1:] = hashes[1:] != hashes[:-1]
    firsts = positions[heads][np.cumsum(heads) - 1] if len(hashes) else positions
    later = positions > firsts
    size = np.uint64(task.size)
    ends, starts = positions[later] + size, np.maximum(positions[later], firsts[later] + size)
    order = np.argsort(ends, kind="stable")
    save_array(task.output, np.stack((ends[order], starts[order])))
    return {"removed": len(ends)}


def _fingerprints(block: Block, size: int) -> Pairs:
    length = _mark_size(size)
    hashes = window_hashes(block.codes, length)
    at = winnow(hashes, block.whole(length), size - length + 1)
    return np.stack((hashes[at], (at + block.start).astype(np.uint64)))


def _windows(block: Block, marked: Places, size: int) -> Pairs:
    """All windows with a marked fingerprint inside."""
    whole = block.whole(size)
    first, last = np.searchsorted(marked, [block.start, block.start + len(block.codes)])
    marks = marked[first:last] - block.start
    at = np.flatnonzero(whole & _around(marks, size, len(whole)))
    if not len(at):
        return np.zeros((2, 0), dtype=np.uint64)
    return np.stack((window_hashes(block.codes, size)[at], (at + block.start).astype(np.uint64)))


def _around(marks: Places, size: int, count: int) -> Flags:
    """Whether each of `count` windows has a fingerprint at any of `marks` inside."""
    steps = np.zeros(count + 1, dtype=np.int64)
    np.add.at(steps, np.clip(marks - (size - _mark_size(size)), 0, count), 1)
    np.add.at(steps, np.minimum(marks + 1, count), -1)
    found: Flags = np.cumsum(steps)[:count] > 0
    return found


def _mark_size(size: int) -> int:
    """Characters of a fingerprint."""
    return (size + 1) // 2


def _marked(runs: Sequence[Path], repeated: Sequence[Path]) -> Places:
    """Ascending positions of the fingerprints of a shard that are repeated anywhere."""
    found = [np.zeros(0, dtype=np.uint64)]
    for path in repeated:
        hashes = _load(path)
        for run in runs if len(hashes) else ():
            own, positions = _slice(_load(run), int(hashes[0]), int(hashes[-1]))
            at = np.minimum(np.searchsorted(hashes, own), len(hashes) - 1)
            found.append(positions[hashes[at] == own])
    return np.sort(np.concatenate(found)).astype(np.int64)


def _ranges(work: Path, name: str, runs: Sequence[tuple[Path, int]], size: int, memory: int) -> list[RangeTask]:
    entries = sum(path.stat().st_size for path, _ in runs) // 16
    parts = max(1, -(-entries * BYTES_AN_ENTRY // memory))
    return [RangeTask(tuple(runs), part, parts, size, work / f"{name}-{part:05d}.npy") for part in range(parts)]


def _range(task: RangeTask) -> Pairs:
    """Hashes and positions of a range, of all runs."""
    low, high = KEY_SPACE * task.part // task.parts, KEY_SPACE * (task.part + 1) // task.parts - 1
    found = [np.zeros((2, 0), dtype=np.uint64)]
    for path, start in task.runs:
        found.append(_slice(_load(path), low, high) + np.array([[0], [start]], dtype=np.uint64))
    return np.concatenate(found, axis=1)


def _slice(pairs: Pairs, low: int, high: int) -> Pairs:
    first = np.searchsorted(pairs[0], np.uint64(low))
    return np.array(pairs[:, first : np.searchsorted(pairs[0], np.uint64(high), side="right")])


def _load(path: Path) -> npt.NDArray[np.uint64]:
    found: npt.NDArray[np.uint64] = np.load(path, mmap_mode="r" if path.stat().st_size > _HEADER_BYTES else None)
    return found


def _run(task: HashTask, number: int) -> Path:
    return task.folder / f"{task.name}-{number:04d}.npy"


def _runs(task: HashTask, result: dict[str, Any]) -> tuple[Path, ...]:
    return tuple(_run(task, number) for number in range(result["runs"]))
