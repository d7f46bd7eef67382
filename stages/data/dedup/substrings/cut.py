"""Removal of substrings from documents, at the borders of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from longcat.pipeline.documents import Document
from longcat.pipeline.files import atomic_path

# A word cut by an end of a substring is kept whole, if it ends within this many characters.
WORD_CHARACTERS = 40
SHOWN_CHARACTERS = 200
_HEADER_BYTES = 128
_BLANK_LINE = re.compile(r"\n\s*\n")

Span = tuple[int, int]


@dataclass(frozen=True)
class CutTask:
    """Remove the substrings in `files`, given that the shard begins at position `start`; report them in `seen`."""

    files: tuple[Path, ...]
    start: int
    seen: Path


class Cutter:
    """Removes substrings from the documents of a shard, read in order, and counts them."""

    def __init__(self, task: CutTask) -> None:
        self._files = [np.load(path, mmap_mode="r") for path in task.files if path.stat().st_size > _HEADER_BYTES]
        self._position = task.start
        self.counts: Counter[str] = Counter()
        self.seen: list[tuple[str, int, int, str]] = []

    def clean(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Documents without the substrings; emptied ones are dropped."""
        for document in documents:
            spans = [
                span
                for found in self._found(len(document.text))
                if (span := at_words(document.text, found)) is not None
            ]
            self._position += len(document.text)
            if not spans:
                yield document
                continue
            self._count(document, spans)
            text = without(document.text, spans)
            if text.strip():
                yield replace(document, text=text)
            else:
                self.counts["repeated_substrings"] += 1

    def _count(self, document: Document, spans: Sequence[Span]) -> None:
        self.counts["substring_documents_changed"] += 1
        for start, end in spans:
            self.counts["substrings_removed"] += 1
            self.counts["substring_characters_removed"] += end - start
            self.seen.append((document.id, start, end - start, shown(document.text[start:end])))

    def _found(self, length: int) -> list[Span]:
        """Joined spans of the next `length` characters, relative to the first."""
        found = []
        for ends, starts in self._files:
            first, last = np.searchsorted(ends, np.array([self._position, self._position + length], np.uint64), "right")
            found.append(np.stack((starts[first:last], ends[first:last])))
        rows = np.concatenate(found, axis=1) if found else np.zeros((2, 0), dtype=np.uint64)
        if not rows.shape[1]:
            return []
        starts, ends = rows[:, np.argsort(rows[0], kind="stable")].astype(np.int64) - self._position
        reach = np.maximum.accumulate(ends)
        heads = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1])))
        tails = np.append(heads[1:], len(starts)) - 1
        return list(zip(starts[heads].tolist(), reach[tails].tolist(), strict=True))


def shown(text: str) -> str:
    """Beginning of a text; lone surrogates, which Parquet cannot hold, are replaced."""
    return text[:SHOWN_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def write_substrings(path: Path, seen: Sequence[tuple[str, int, int, str]]) -> None:
    """Write the removed substrings of one shard: document, start and number of characters, beginning of the text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = dict.fromkeys(("start", "characters"), pa.int64())
    schema = pa.schema({"document": pa.string(), **numbers, "text": pa.string()})
    rows = [dict(zip(schema.names, row, strict=True)) for row in seen]
    with atomic_path(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside)


def join_substrings(path: Path, parts: Sequence[Path]) -> None:
    """Write the removed substrings of all shards, in order."""
    import pyarrow.parquet as pq

    with atomic_path(path) as aside, pq.ParquetWriter(aside, pq.read_schema(parts[0]), compression="zstd") as writer:
        for part in parts:
            writer.write_table(pq.read_table(part))


def at_words(text: str, span: Span) -> Span | None:
    """The span without the parts of words at its ends; None if nothing is left."""
    start, end = span
    if start and not text[start - 1].isspace():
        start = next((at for at in range(start, min(end, start + WORD_CHARACTERS)) if text[at].isspace()), start)
    if end < len(text) and not text[end].isspace():
        low = max(start, end - WORD_CHARACTERS)
        end = next((at for at in range(end, low, -1) if text[at - 1].isspace()), end)
    return (start, end) if start < end else None


def without(text: str, spans: Iterable[Span]) -> str:
    """Text without spans in order; a blank line, a line end or a blank at or in a span is kept between its sides."""
    pieces: list[str] = []
    last, gap = 0, ""
    for start, end in (*spans, (len(text), len(text))):
        piece = text[last:start]
        if not piece.strip():
            gap += text[last:end]
            last = end
            continue
        if last:
            gap += piece[: len(piece) - len(piece.lstrip())]
            piece = piece.lstrip()
        if pieces:
            left = pieces[-1].rstrip()
            pieces[-1:] = [left, _separator(pieces[-1][len(left) :] + gap)]
        pieces.append(piece)
        last, gap = end, text[start:end]
    if gap and pieces:  # the end was cut off
        pieces[-1] = pieces[-1].rstrip()
    return "".join(pieces)


def _separator(gap: str) -> str:
    if _BLANK_LINE.search(gap):
        return "\n\n"
    if "\n" in gap:
        return "\n"
    return " " if any(map(str.isspace, gap)) else ""
