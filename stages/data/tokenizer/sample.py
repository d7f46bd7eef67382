"""Selection of documents for training and measurement by a hash of their ids, independent of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.documents import read_documents
from longcat.pipeline.files import atomic_path

HELD_OUT_SHARE = 20


@dataclass(frozen=True)
class MeasureTask:
    """Measure the documents of `shard` into `sizes`: uint64 [n documents, 2] of hash and bytes."""

    shard: Path
    sizes: Path
    seed: int


@dataclass(frozen=True)
class Sample:
    """Of `documents`, hashes up to `last_trained` are for training, hashes from `first_held_out` on are held out."""

    documents: int
    last_trained: int
    first_held_out: int
    trained_documents: int
    trained_bytes: int
    held_out_documents: int
    held_out_bytes: int


def document_hash(identifier: str, seed: int) -> int:
    """64-bit hash of a document's id and a seed."""
    key = seed.to_bytes(8, "little")
    return int.from_bytes(hashlib.blake2b(identifier.encode(), digest_size=8, key=key).digest(), "little")


def measure_shard(task: MeasureTask) -> dict[str, Any]:
    """See `MeasureTask`."""
    rows = [(document_hash(d.id, task.seed), len(d.text.encode())) for d in read_documents(task.shard)]
    with atomic_path(task.sizes) as aside, aside.open("wb") as stream:
        np.save(stream, np.array(rows, dtype=np.uint64).reshape(-1, 2))
    return {"documents": len(rows)}


def choose(sizes: Sequence[Path], sample_bytes: int, held_out_bytes: int) -> Sample:
    """Select documents by ascending hash up to `sample_bytes`, and by descending hash up to `held_out_bytes`.

    Both select at least one document if there are two; held out is at most 5 % of all.
    """
    rows = np.concatenate([np.load(path) for path in sizes])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    hashes, lengths = rows[:, 0], rows[:, 1].astype(np.int64)
    before = np.concatenate(([0], np.cumsum(lengths)))
    limit = min(held_out_bytes, int(before[-1]) // HELD_OUT_SHARE)
    held = min(max(1, int(np.searchsorted(np.cumsum(lengths[::-1]), limit, side="right"))), len(rows) - 1)
    trained = max(1, int(np.searchsorted(before[1:], sample_bytes, side="right")))
    trained = min(trained, len(rows) - held)
    first_held = len(rows) - held
    return Sample(
        documents=len(rows),
        last_trained=int(hashes[trained - 1]),
        first_held_out=int(hashes[first_held]) if held else 1 << 64,
        trained_documents=trained,
        trained_bytes=int(before[trained]),
        held_out_documents=held,
        held_out_bytes=int(before[-1] - before[first_held]),
    )


def texts_between(shards: Sequence[Path], seed: int, first: int, last: int) -> Iterator[str]:
    """Texts of documents with hashes from `first` to `last`, inclusive."""
    for shard in shards:
        for document in read_documents(shard):
            if first <= document_hash(document.id, seed) <= last:
                yield document.text
