"""First pass over a shard: digests, signatures and band keys of its documents, as sorted runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.document_inputs import InputShard
from longcat.pipeline.documents import Document, in_batches
from longcat.pipeline.files import atomic_path
from longcat.stages.data.dedup.config import DedupConfig
from longcat.stages.data.dedup.runs import Keys, file_of, in_key_order, save_array
from longcat.stages.data.dedup.signatures import (
    EMPTY_SLOT,
    NgramHashes,
    Permutations,
    Signatures,
    Signer,
    distinct_ngrams,
)
from longcat.stages.data.text.hashed_words import exact_digest

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 4096
# Bytes per document in a run besides its hashes: id, length, quality, digest, and the sorted copy of its exact key.
BYTES_A_DOCUMENT = 400

_BAND_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class SignTask:
    """Task: sign the documents of `shard` with number `number` into runs in `folder`."""

    shard: InputShard
    number: int
    folder: Path
    config: DedupConfig
    permutations: Permutations


@dataclass
class _Batch:
    """Buffered documents of a run."""

    ids: list[str] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    qualities: list[float] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    signatures: list[Signatures] = field(default_factory=list)
    ngrams: list[NgramHashes] = field(default_factory=list)
    bytes: int = 0


def sign_shard(task: SignTask) -> dict[str, Any]:
    """Sign every document of one shard; a run is written whenever the memory limit is reached.

    Raises:
        IntegrityError: the shard is damaged.
    """
    config = task.config
    signer = Signer(task.permutations, config.ngram)
    runs: list[dict[str, Any]] = []
    batch = _Batch()

    def write() -> None:
        runs.append(_write_run(batch, task.folder, f"{task.number:05d}-{len(runs):04d}", config))

    for documents in in_batches(task.shard.documents(), BATCH_DOCUMENTS, BATCH_CHARACTERS):
        _add(batch, documents, signer, config)
        if batch.bytes >= config.memory_bytes // 2:
            write()
            batch = _Batch()
    if batch.ids:
        write()
    return {"runs": runs}


def _add(batch: _Batch, documents: list[Document], signer: Signer, config: DedupConfig) -> None:
    texts = [document.text for document in documents]
    batch.ids.extend(document.id for document in documents)
    batch.lengths.extend(map(len, texts))
    batch.qualities.extend(_quality(document, config.quality_key) for document in documents)
    batch.digests.extend(map(exact_digest, texts))
    batch.bytes += len(texts) * BYTES_A_DOCUMENT
    if not config.near:
        return
    signatures = signer.sign(texts)
    batch.signatures.append(signatures)
    # A second copy is made when the run is assembled; keys and rows take 24 bytes per band with their sorted copies.
    batch.bytes += 2 * signatures.nbytes + 24 * config.bands * len(texts)
    if config.exact_jaccard:
        ngrams = [distinct_ngrams(text, config.ngram) for text in texts]
        batch.ngrams.extend(ngrams)
        batch.bytes += 2 * sum(hashes.nbytes for hashes in ngrams)


def _quality(document: Document, key: str) -> float:
    """Quality in a document's metadata; minus infinity if missing."""
    value = document.metadata.get(key) if isinstance(document.metadata, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        return -math.inf
    return float(value)


def _write_run(batch: _Batch, folder: Path, name: str, config: DedupConfig) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    digests = np.frombuffer(b"".join(batch.digests), dtype="<u8").reshape(-1, 2)
    arrays: dict[str, Any] = {"digests": digests}
    rows = np.arange(len(digests))
    arrays["exact-keys"], arrays["exact-rows"] = in_key_order(digests[:, 0], rows)
    signed = 0
    if config.near:
        signatures = np.concatenate(batch.signatures)
        filled = np.flatnonzero((signatures != EMPTY_SLOT).any(axis=1))
        signed = len(filled)
        sections = [
            in_key_order(_band_keys(signatures, band, config.rows)[filled], filled) for band in range(config.bands)
        ]
        arrays["band-keys"] = np.stack([keys for keys, _ in sections])
        arrays["band-rows"] = np.stack([rows for _, rows in sections])
        arrays["signatures"] = signatures
    if batch.ngrams:
        arrays["ngrams"] = np.concatenate(batch.ngrams)
        arrays["ngram-ends"] = np.cumsum([len(hashes) for hashes in batch.ngrams])
    for kind, array in arrays.items():
        save_array(file_of(folder, name, kind), array)
    columns = {
        "id": pa.array(batch.ids, pa.string()),
        "length": pa.array(batch.lengths, pa.int64()),
        "quality": pa.array(batch.qualities, pa.float64()),
    }
    with atomic_path(file_of(folder, name, "records")) as aside:
        pq.write_table(pa.table(columns), aside)
    return {"name": name, "documents": len(digests), "signed": signed}


def _band_keys(signatures: Signatures, band: int, rows: int) -> Keys:
    """64-bit hash of a band for every document."""
    keys = np.zeros(len(signatures), dtype=np.uint64)
    for column in range(band * rows, (band + 1) * rows):
        keys = (keys ^ signatures[:, column]) * _BAND_MULTIPLIER
        keys ^= keys >> np.uint64(32)
    return keys
