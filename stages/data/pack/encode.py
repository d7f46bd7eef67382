"""One shard of documents to token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from longcat.pipeline.documents import Document, read_documents
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import atomic_path
from longcat.pipeline.tokens import dtype_for
from longcat.stages.data.score.files import read_scores, read_table

if TYPE_CHECKING:
    from longcat.stages.tokenizer import Tokenizer

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 20


@dataclass(frozen=True)
class EncodeTask:
    """Encode the documents of `shard`: ids to `tokens` (raw), hash and length of each to `table`, uint64 [n, 2].

    Where `scores` are given, those of each go to `scored`, float32 [n, 2].
    """

    shard: Path
    tokenizer: Path
    tokens: Path
    table: Path
    seed: int
    scores: Path | None
    scored: Path


def split_hash(identifier: str, seed: int) -> int:
    """64 bits of a document's id, by which it goes to training or validation."""
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(identifier.encode(), digest_size=8, key=key, person=b"longcat-split")
    return int.from_bytes(digest.digest(), "little")


def encode_shard(task: EncodeTask) -> dict[str, Any]:
    """Encode one shard; see `EncodeTask`. Documents without text are left out and counted.

    Raises:
        InputError: the tokenizer cannot be read, or a text holds what is no character.
        IntegrityError: the shard or the scores are damaged.
    """
    tokenizer = _tokenizer(task.tokenizer)
    dtype, end = dtype_for(tokenizer.vocab_size), [tokenizer.eos_id]
    table: list[tuple[int, int]] = []
    seen: list[tuple[str, bool]] = []
    n_bytes = empty = 0
    with atomic_path(task.tokens) as aside, aside.open("wb") as stream:
        for batch in _batches(task.shard):
            documents = [document for document in batch if document.text]
            empty += len(batch) - len(documents)
            seen += [(document.id, bool(document.text)) for document in batch]
            encoded = tokenizer.encode_batch([document.text for document in documents])
            lengths = [len(ids) + 1 for ids in encoded]
            joined = chain.from_iterable(chain.from_iterable((ids, end) for ids in encoded))
            stream.write(np.fromiter(joined, dtype=dtype, count=sum(lengths)).tobytes())
            for document, length in zip(documents, lengths, strict=True):
                table.append((split_hash(document.id, task.seed), length))
                n_bytes += len(document.text.encode())
    with atomic_path(task.table) as aside, aside.open("wb") as stream:
        np.save(stream, np.array(table, dtype=np.uint64).reshape(-1, 2))
    if task.scores is not None:
        _write_scores(task.scores, task.scored, seen)
    return {"documents": len(table), "empty": empty, "bytes": n_bytes, "vocab_size": tokenizer.vocab_size}


def _write_scores(scores: Path, path: Path, seen: list[tuple[str, bool]]) -> None:
    """Write the scores of the documents with text; `seen` has the id of every document, and whether it has text."""
    if read_table(scores, ("id",)).column("id").to_pylist() != [identifier for identifier, _ in seen]:
        raise IntegrityError("its rows are not the documents of the shard", where=str(scores))
    kept = np.array([has_text for _, has_text in seen], dtype=np.bool_)
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, read_scores(scores)[kept])


@lru_cache(maxsize=1)
def _tokenizer(folder: Path) -> Tokenizer:
    """Reading a large vocabulary takes as long as encoding a megabyte; an artifact's folder never changes."""
    from longcat.stages.tokenizer import load_tokenizer

    return load_tokenizer(folder)


def _batches(shard: Path) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in read_documents(shard):
        batch.append(document)
        characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
