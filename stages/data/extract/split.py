"""Partition of input files into parts and of parts into shards; it depends on sizes only, not on the number of workers.

A file much larger than a shard is cut into ranges of equal size. Where the records of a range start is found by reading
from its first byte on, and checked: the range before must end there. Where it does not, for instance because a record
holds a crawl itself, the range is read again from where the one before ends. So the records are those of one reading
from the beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from longcat.pipeline.faults import open_input
from longcat.pipeline.files import atomic_write
from longcat.pipeline.remote import RemoteFile
from longcat.stages.data.extract.compression import suffix_of
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import TEXT_WEIGHT, OneRecord
from longcat.stages.data.extract.formats.registry import FORMATS
from longcat.stages.data.extract.parts import BEGIN, Cut, Part, Start
from longcat.stages.data.extract.records import InputFile

# A compressed byte stands for about as many; pages in crawls have 6, JSON lines 4.
COMPRESSED_WEIGHT = 8
MAX_PARTS_A_SHARD = 10_000
# Below it, opening a file takes longer than reading its part.
MIN_PART_BYTES = 64 << 10
# Beyond it shards become larger, so that later stages do not open more files.
MAX_SHARDS = 50_000
# Small containers are not joined to fewer shards, so that several workers have something to do.
MIN_SHARDS = 16
DIGEST_BYTES = 16
# Decompressing takes about a twenty-fifth of the time of pages and a quarter of that of text, so that reading twelve
# parts of pages, or three of text, takes at most half as long again.
MAX_PARTS_A_MEMBER = 12


@dataclass(frozen=True)
class IndexTask:
    """A part to index; `exact` if a record is known to start at its start. The digests of record ids go to `ids`."""

    part: Part
    exact: bool
    ids: Path
    config: ExtractConfig


def index_part(task: IndexTask) -> dict[str, Any]:
    """Where the first record of a part starts and the record after its last one, and its number of lines."""
    part = task.part
    with open_input(part.file.path) as stream:
        cut_bytes = int(task.config.shard_bytes / _content_weight(part.file, task.config))
        first, extent = FORMATS[part.file.format].index(stream, part, task.config, cut_bytes, exact=task.exact)
    if extent.ids:
        atomic_write(task.ids, b"".join(extent.ids))
    return {
        "first": first,
        "stop": extent.stop,
        "end": Cut(BEGIN, extent.content_bytes, extent.lines, len(extent.ids)),
        "cuts": extent.cuts,
    }


def cut(files: Sequence[InputFile], config: ExtractConfig) -> list[list[Part]]:
    """Parts of every file by its size: one, or ranges that take as long as a shard."""
    costs = [_cost(file, config) for file in files]
    limit = max(config.shard_bytes, sum(costs) / MAX_SHARDS)
    cuts = []
    for file, cost in zip(files, costs, strict=True):
        size = _size(file)
        count = max(1, round(min(cost / limit, size / MIN_PART_BYTES))) if FORMATS[file.format].splits else 1
        bounds = [size * number // count for number in range(count)]
        ends = [*map(Start, bounds[1:]), None]
        cuts.append([Part(file, Start(begin), end) for begin, end in zip(bounds, ends, strict=True)])
    return cuts


def index_tasks(cuts: Sequence[Sequence[Part]], folder: Path, config: ExtractConfig) -> list[IndexTask]:
    """Tasks for all parts of files that are cut."""
    parts = [part for parts in cuts if len(parts) > 1 for part in parts]
    return [
        IndexTask(part, part.start == BEGIN, folder / f"ids-{number:06d}.bin", config)
        for number, part in enumerate(parts)
    ]


def exact_parts(
    cuts: Sequence[Sequence[Part]], tasks: Sequence[IndexTask], found: Sequence[dict[str, Any]]
) -> Iterator[Part]:
    """All parts in order, those of cut files from their first record on; empty ones are left out."""
    indexed = iter(zip(tasks, found, strict=True))
    for parts in cuts:
        if len(parts) == 1:
            yield from parts
        else:
            yield from _chain([next(indexed) for _ in parts])


def _chain(indexed: Sequence[tuple[IndexTask, dict[str, Any]]]) -> Iterator[Part]:
    """Parts of one file, each of which begins where the one before ends."""
    start: Start | None = BEGIN
    lines = 0
    seen: set[bytes] = set()
    for task, result in indexed:
        if start is None or not task.part.includes(start):
            continue
        if result["first"] is None or Start(*result["first"]) != start:
            task = replace(task, part=replace(task.part, start=start), exact=True)  # noqa: PLW2901
            result = index_part(task)  # noqa: PLW2901
        stop = None if result["stop"] is None else Start(*result["stop"])
        ids = _ids(task, result)
        cuts = [Cut(start, 0, 0, 0), *_kept_cuts(task, result), Cut(*result["end"])]
        for begin, end in pairwise(cuts):
            own = ids[begin.ids : end.ids]
            yield Part(
                task.part.file,
                Start(*begin.place),
                Start(*end.place) if end is not cuts[-1] else None if stop is None else task.part.end,
                lines + begin.lines,
                frozenset(seen.intersection(own)),
                end.content_bytes - begin.content_bytes,
            )
            seen.update(own)
        lines += cuts[-1].lines
        start = stop


def _kept_cuts(task: IndexTask, result: dict[str, Any]) -> list[Cut]:
    """The cuts to use within a part, which has several only in a large compressed member.

    For every part the member is decompressed from its beginning, so the fewer, the faster a byte is read.
    """
    cuts = [Cut(*cut) for cut in result["cuts"]]
    weight = _content_weight(task.part.file, task.config)
    step = -(-(len(cuts) + 1) // max(1, int(MAX_PARTS_A_MEMBER * weight)))
    kept = cuts[step - 1 :: step]
    # What would be left is read with the part before.
    least = task.config.shard_bytes / weight / 2
    return [cut for cut in kept if result["end"][1] - cut.content_bytes >= least]


def _ids(task: IndexTask, result: dict[str, Any]) -> list[bytes]:
    data = task.ids.read_bytes() if result["end"][3] else b""
    return [data[at : at + DIGEST_BYTES] for at in range(0, len(data), DIGEST_BYTES)]


def shards(parts: Sequence[Part], config: ExtractConfig) -> list[tuple[Part, ...]]:
    """Parts joined in order, up to the size of a shard."""
    costs = [_part_cost(part, config) for part in parts]
    limit = max(config.shard_bytes, sum(costs) / MAX_SHARDS)
    in_containers = sum(cost for part, cost in zip(parts, costs, strict=True) if _is_container(part))
    scale = max(1.0, MIN_SHARDS * limit / max(in_containers, 1))
    joined: list[tuple[Part, ...]] = []
    together: list[Part] = []
    size = 0.0
    for part, cost in zip(parts, costs, strict=True):
        scaled = min(cost * scale, limit) if _is_container(part) else cost
        if together and (size + scaled > limit or len(together) >= MAX_PARTS_A_SHARD):
            joined.append(tuple(together))
            together, size = [], 0.0
        together.append(part)
        size += scaled
    return [*joined, tuple(together)] if together else joined


def _is_container(part: Part) -> bool:
    return not isinstance(FORMATS[part.file.format], OneRecord)


def _size(file: InputFile) -> int:
    return file.path.size if isinstance(file.path, RemoteFile) else file.path.stat().st_size


def _cost(file: InputFile, config: ExtractConfig) -> float:
    return _weight(file, config) * _size(file)


def _part_cost(part: Part, config: ExtractConfig) -> float:
    if part.content_bytes is not None:
        return _content_weight(part.file, config) * part.content_bytes
    return _cost(part.file, config)


def _weight(file: InputFile, config: ExtractConfig) -> float:
    """Time that a byte of a file takes, relative to one of an HTML page."""
    return _content_weight(file, config) * (COMPRESSED_WEIGHT if suffix_of(file.path.name)[1] else 1)


def _content_weight(file: InputFile, config: ExtractConfig) -> float:
    """Time that a byte takes after decompression."""
    form = FORMATS[file.format]
    is_page = not isinstance(form, OneRecord) and config.field_kind == "html" and form.weight == TEXT_WEIGHT
    return form.weight / TEXT_WEIGHT if is_page else form.weight
