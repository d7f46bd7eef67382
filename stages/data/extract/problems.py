"""The list of problems of an artifact, from those of its shards and the skipped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from longcat.pipeline.files import atomic_path, canonical_json
from longcat.stages.data.extract.inputs import Skipped

# Enough to diagnose a file; limited so that a broken file with a billion lines does not fill the disk.
LISTED_PROBLEMS_A_FILE = 1000
# Maximum number of skipped files that are named.
LISTED_FILES = 10_000
NOT_LISTED = "not_listed"


def problems_name(number: int) -> str:
    """File name of the problems of shard `number`, before merging: `problems-00000.jsonl`."""
    return f"problems-{number:05d}.jsonl"


class ListedProblems:
    """Writes the first problems of one file, then one line with the number of others."""

    def __init__(self, stream: BinaryIO, source: str) -> None:
        self._stream = stream
        self.source = source
        self._count = 0

    def add(self, line: bytes) -> None:
        if self._count < LISTED_PROBLEMS_A_FILE:
            self._stream.write(line)
        self._count += 1

    def add_unlisted(self, count: int) -> None:
        """Add problems that were not listed before."""
        self._count += count

    def close(self) -> None:
        if self._count > LISTED_PROBLEMS_A_FILE:
            more = {"file": self.source, "reason": NOT_LISTED, "problems": self._count - LISTED_PROBLEMS_A_FILE}
            self._stream.write(canonical_json(more) + b"\n")


def join_problems(folder: Path, shards: int, skipped: Sequence[Skipped], path: Path) -> None:
    """Merge the problems of all shards in order, followed by skipped files."""
    with atomic_path(path) as aside, aside.open("wb") as joined:
        listed: ListedProblems | None = None
        for line, problem in _problems(folder, shards):
            # The parts of a large file are in several shards.
            if listed is None or listed.source != problem["file"]:
                if listed is not None:
                    listed.close()
                listed = ListedProblems(joined, problem["file"])
            if problem["reason"] == NOT_LISTED:
                listed.add_unlisted(problem["problems"])
            else:
                listed.add(line)
        if listed is not None:
            listed.close()
        for file in skipped[:LISTED_FILES]:
            joined.write(canonical_json({"file": file.source, "reason": file.reason}) + b"\n")
        if len(skipped) > LISTED_FILES:
            more = {"reason": NOT_LISTED, "files": len(skipped) - LISTED_FILES}
            joined.write(canonical_json(more) + b"\n")


def _problems(folder: Path, shards: int) -> Iterator[tuple[bytes, dict[str, Any]]]:
    for number in range(shards):
        with (folder / problems_name(number)).open("rb") as part:
            for line in part:
                yield line, orjson.loads(line)
