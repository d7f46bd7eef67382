"""Paragraphs repeated by many documents of a host or source: navigation, notices, templates.

Counted over kept documents, as sorted 64-bit hashes in one file per shard, then summed by key range.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document
from longcat.pipeline.files import atomic_path
from longcat.stages.data.dedup.config import ParagraphConfig, Scope
from longcat.stages.data.dedup.runs import BYTES_AN_ENTRY, KEY_SPACE, save_array
from longcat.stages.data.text.hashed_words import composed

SHOWN_CHARACTERS = 200
# Row of a count file: hash of group and paragraph (or only group, for its documents), group, documents.
COUNT = np.dtype([("key", "<u8"), ("group", "<u8"), ("documents", "<i8")])

_BREAK = re.compile(r"\n\s*\n")

Counted = npt.NDArray[Any]


@dataclass(frozen=True)
class CountTask:
    """Task: count paragraphs of documents of `shard` with true in `kept` (.npy of bool) into `counts`."""

    shard: InputShard
    kept: Path
    counts: Path
    scope: Scope


def count_paragraphs(task: CountTask) -> dict[str, Any]:
    """Documents per paragraph and per group in one shard.

    Raises:
        IntegrityError: the shard is damaged.
    """
    kept = np.load(task.kept)
    found: Counter[tuple[int, int]] = Counter()
    for row, document in enumerate(task.shard.documents()):
        if kept[row]:
            group = _number(group_of(document, task.scope).encode("utf-8", "surrogatepass"))
            found[group, group] += 1
            found.update({(key, group) for key, _ in _paragraphs(document.text, group) if key != group})
    counts = np.array([(*names, number) for names, number in found.items()], dtype=COUNT)
    counts.sort(order="key")
    save_array(task.counts, counts)
    return {"paragraphs": len(counts)}


def repeated(counts: Iterable[Path], config: ParagraphConfig, memory_bytes: int) -> Counted:
    """Paragraphs repeated often enough, sorted by `key`; shape [n] of `COUNT`.

    Holds one range of keys of all shards at a time, and the number of documents of every group.
    """
    paths = list(counts)
    total = sum(path.stat().st_size for path in paths) // COUNT.itemsize
    parts = max(1, -(-total * BYTES_AN_ENTRY // memory_bytes))
    often: list[Counted] = []
    groups: list[Counted] = []
    for part in range(parts):
        summed = _summed(paths, KEY_SPACE * part // parts, KEY_SPACE * (part + 1) // parts - 1)
        of_groups = summed["key"] == summed["group"]
        groups.append(summed[of_groups])
        often.append(summed[~of_groups & (summed["documents"] >= config.min_documents)])
    sizes, paragraphs = np.concatenate(groups), np.concatenate(often)
    documents = sizes["documents"][np.searchsorted(sizes["key"], paragraphs["group"])] if len(paragraphs) else 0
    return paragraphs[paragraphs["documents"] >= config.min_share * documents]


def _summed(paths: list[Path], low: int, high: int) -> Counted:
    pieces = []
    for path in paths:
        counts = np.load(path, mmap_mode="r") if path.stat().st_size > 256 else np.load(path)
        keys = np.ascontiguousarray(counts["key"])
        start, end = np.searchsorted(keys, np.array([low, high], dtype=np.uint64), side="left")
        end += int(end < len(keys) and int(keys[end]) == high)
        pieces.append(np.array(counts[start:end]))
    every = np.concatenate(pieces)
    every.sort(order="key", kind="stable")
    if not len(every):
        return every
    starts = np.flatnonzero(np.concatenate([[True], every["key"][1:] != every["key"][:-1]]))
    summed = every[starts]
    summed["documents"] = np.add.reduceat(every["documents"], starts)
    return summed


def group_of(document: Document, scope: Scope) -> str:
    """Group of a document for counting paragraphs; a document without a host belongs to its source."""
    if scope == "all":
        return ""
    if scope == "host" and document.url:
        try:
            host = urlsplit(document.url).hostname
        except ValueError:
            host = None
        if host:
            return f"host {host}"
    return f"source {document.source}"


class Remover:
    """Removes repeated paragraphs from documents and counts them."""

    def __init__(self, keys: Path, scope: Scope) -> None:
        self._keys = frozenset(np.load(keys).tolist())
        self._scope = scope
        self.counts: Counter[str] = Counter()
        self.seen: dict[int, tuple[str, str]] = {}

    def clean(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Documents without repeated paragraphs; empty ones are dropped."""
        for document in documents:
            text = self._cleaned(document)
            if text is None:
                yield document
            elif text.strip():
                yield replace(document, text=text)
            else:
                self.counts["repeated_paragraphs"] += 1

    def _cleaned(self, document: Document) -> str | None:
        """Remaining text; None if unchanged."""
        name = group_of(document, self._scope)
        rest = []
        removed = 0
        for key, paragraph in _paragraphs(document.text, _number(name.encode("utf-8", "surrogatepass"))):
            if key not in self._keys:
                rest.append(paragraph)
                continue
            removed += 1
            self.counts["characters_removed"] += len(paragraph)
            shown = composed(paragraph).decode("utf-8", "replace")[:SHOWN_CHARACTERS]
            self.seen.setdefault(key, (name, shown))
        if not removed:
            return None
        self.counts["paragraphs_removed"] += removed
        self.counts["documents_changed"] += 1
        return "\n\n".join(rest)


def write_seen(path: Path, seen: dict[int, tuple[str, str]]) -> None:
    """Save the text of paragraphs removed from one shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = sorted(seen)
    columns = {
        "key": pa.array(keys, pa.uint64()),
        "group": pa.array([seen[key][0] for key in keys], pa.string()),
        "text": pa.array([seen[key][1] for key in keys], pa.string()),
    }
    with atomic_path(path) as aside:
        pq.write_table(pa.table(columns), aside)


def write_report(path: Path, paragraphs: Counted, seen: Iterable[Path]) -> None:
    """One row per repeated paragraph: group, number of documents, start of the text; by group, most frequent first."""
    import pyarrow.parquet as pq

    wording: dict[int, tuple[str, str]] = {}
    for part in seen:
        table = pq.read_table(part)
        for key, group, text in zip(*(table[name].to_pylist() for name in ("key", "group", "text")), strict=True):
            wording.setdefault(key, (group, text))
    rows = [
        (*wording[int(row["key"])], int(row["documents"]), int(row["key"]))
        for row in paragraphs
        if int(row["key"]) in wording
    ]
    _write_rows(path, sorted(rows, key=lambda row: (row[0], -row[2], row[1], row[3])))


def _write_rows(path: Path, rows: list[tuple[str, str, int, int]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "group": pa.array([row[0] for row in rows], pa.string()),
        "documents": pa.array([row[2] for row in rows], pa.int64()),
        "text": pa.array([row[1] for row in rows], pa.string()),
    }
    with atomic_path(path) as aside:
        pq.write_table(pa.table(columns), aside)


def _paragraphs(text: str, group: int) -> Iterator[tuple[int, str]]:
    """Key and text of every non-blank paragraph."""
    salt = group.to_bytes(8, "little")
    for paragraph in _BREAK.split(text):
        if data := composed(paragraph):
            yield _number(data, salt), paragraph


def _number(data: bytes, salt: bytes = b"") -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=salt).digest(), "little")
