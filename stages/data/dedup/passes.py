"""The two passes over the shards: signatures into the scratch folder, and kept documents into the artifact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.documents import Document, read_documents, write_documents
from pipeline.files import atomic_path
from stages.data.dedup.config import DedupConfig
from stages.data.dedup.signatures import DIGEST_BYTES, Signer, exact_digest


@dataclass(frozen=True)
class SignTask:
    """Sign the documents of `shard` into `signatures` (.npy) and `records` (parquet)."""

    shard: Path
    signatures: Path
    records: Path
    config: DedupConfig


@dataclass(frozen=True)
class WriteTask:
    """Copy those documents of `shard` to `output` whose row in `kept` (.npy of bool) is true."""

    shard: Path
    kept: Path
    output: Path


def sign_shard(task: SignTask) -> dict[str, Any]:
    """Sign every document of one shard.

    Writes signatures, uint32 [n documents, num_perm], and records with id, length (characters) and digest, in order.

    Raises:
        IntegrityError: the shard is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    config = task.config
    signer = Signer(config.num_perm, config.ngram, config.seed) if config.near else None
    ids: list[str] = []
    lengths: list[int] = []
    digests: list[bytes] = []
    signatures: list[npt.NDArray[np.uint32]] = []
    for document in read_documents(task.shard):
        ids.append(document.id)
        lengths.append(len(document.text))
        digests.append(exact_digest(document.text))
        if signer is not None:
            signatures.append(signer.sign(document.text))
    width = config.num_perm if config.near else 0
    save_array(task.signatures, np.array(signatures, dtype=np.uint32).reshape(len(ids), width))
    columns = [pa.array(ids, pa.string()), pa.array(lengths, pa.int64()), pa.array(digests, pa.binary(DIGEST_BYTES))]
    with atomic_path(task.records) as aside:
        pq.write_table(pa.Table.from_arrays(columns, names=["id", "length", "digest"]), aside)
    return {"documents": len(ids)}


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write the documents of one shard that stay."""
    kept = np.load(task.kept)

    def staying() -> Iterator[Document]:
        for row, document in enumerate(read_documents(task.shard)):
            if kept[row]:
                yield document

    return {"documents": write_documents(task.output, staying())}


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an .npy file, whole or not at all."""
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)
