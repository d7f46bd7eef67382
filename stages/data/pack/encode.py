"""Encoding of one shard of documents to token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.documents import Document, document_batches
from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.files import atomic_path
from longcat.pipeline.tokens import dtype_for
from longcat.stages.data.pack.begin import document_begin
from longcat.stages.formats.scores import read_scores, read_table

if TYPE_CHECKING:
    from longcat.stages.formats.encoding import Choice, Encoded, Encoder

BATCH_DOCUMENTS = 4096  # a batch costs a millisecond besides its texts
BATCH_CHARACTERS = 1 << 20
# Documents of a shard that are encoded by both libraries: the first ones, and one of so many.
COMPARED_FIRST = 2
COMPARED_OF = 512


@dataclass(frozen=True)
class EncodeTask:
    """Encode the documents of `shard`: ids to `tokens` (raw), hash and length of each to `table`, uint64 [n, 2].

    If `scores` are given, they are written to `scored`, float32 [n, 2].
    """

    shard: Path
    tokenizer: Path
    tokens: Path
    table: Path
    seed: int
    scores: Path | None
    scored: Path
    encoder: Choice
    begin_token: bool | None = None


def split_hash(identifier: str, seed: int) -> int:
    """64-bit hash of a document's id, which decides between training and validation."""
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(identifier.encode(), digest_size=8, key=key, person=b"longcat-split")
    return int.from_bytes(digest.digest(), "little")


def encode_shard(task: EncodeTask) -> dict[str, Any]:
    """Encode one shard; see `EncodeTask`. Documents without text are skipped and counted.

    Raises:
        InputError: the tokenizer cannot be read, or a text contains an invalid character.
        IntegrityError: the shard or the scores are damaged, or the libraries differ on a document.
    """
    encoder = _encoder(task.tokenizer, task.encoder)
    tokenizer = encoder.tokenizer
    dtype = dtype_for(tokenizer.vocab_size)
    begin = document_begin(tokenizer, task.begin_token)
    tables = [np.empty((0, 2), dtype=np.uint64)]
    seen: list[tuple[str, bool]] = []
    n_bytes = empty = compared = 0
    to_compare = COMPARED_FIRST
    with atomic_path(task.tokens) as aside, aside.open("wb") as stream:
        for batch in document_batches(task.shard, BATCH_DOCUMENTS, BATCH_CHARACTERS):
            documents = [document for document in batch if document.text]
            empty += len(batch) - len(documents)
            seen += [(document.id, bool(document.text)) for document in batch]
            encoded = encoder.encode([document.text for document in documents])
            hashes = [split_hash(document.id, task.seed) for document in documents]
            chosen = [n for n, number in enumerate(hashes) if n < to_compare or number % COMPARED_OF == 0]
            to_compare = max(to_compare - len(hashes), 0)
            compared += _compare(encoder, documents, encoded, chosen, task.shard)
            stream.write(with_ends(encoded, begin, tokenizer.eos_id, dtype).tobytes())
            lengths = encoded.lengths.astype(np.uint64) + len(begin) + 1
            tables.append(np.stack((np.array(hashes, dtype=np.uint64), lengths), axis=1))
            n_bytes += encoded.n_bytes
    table = np.concatenate(tables)
    with atomic_path(task.table) as aside, aside.open("wb") as stream:
        np.save(stream, table)
    if task.scores is not None:
        _write_scores(task.scores, task.scored, seen)
    return {
        "documents": len(table),
        "empty": empty,
        "bytes": n_bytes,
        "vocab_size": tokenizer.vocab_size,
        "encoder": encoder.describe(),
        "compared": compared,
        "begin": len(begin),
    }


def with_ends(encoded: Encoded, begin: Sequence[int], end: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """Ids of all documents, each after `begin` and followed by `end`."""
    ends = np.cumsum(encoded.lengths + len(begin) + 1) - 1
    starts = ends - encoded.lengths - len(begin)
    ids = np.empty(len(encoded.ids) + len(ends) * (len(begin) + 1), dtype=dtype)
    is_text = np.ones(len(ids), dtype=np.bool_)
    for places, token in ((ends, end), *((starts + number, token) for number, token in enumerate(begin))):
        is_text[places] = False
        ids[places] = token
    ids[is_text] = encoded.ids
    return ids


def _compare(
    encoder: Encoder, documents: Sequence[Document], encoded: Encoded, chosen: Sequence[int], shard: Path
) -> int:
    from longcat.stages.formats.encoding.compare import compare

    texts, names = [document.text for document in documents], [document.id for document in documents]
    return compare(encoder, texts, encoded, names, chosen, str(shard))


def _write_scores(scores: Path, path: Path, seen: list[tuple[str, bool]]) -> None:
    """Write the scores of documents with text; `seen` has the id of every document, and whether it has text."""
    if read_table(scores, ("id",)).column("id").to_pylist() != [identifier for identifier, _ in seen]:
        raise IntegrityError("its rows do not match the documents of the shard", where=str(scores))
    kept = np.array([has_text for _, has_text in seen], dtype=np.bool_)
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, read_scores(scores)[kept])


@lru_cache(maxsize=1)
def _encoder(folder: Path, choice: Choice) -> Encoder:
    """Cached: reading a large vocabulary takes as long as encoding many megabytes; artifact folders never change."""
    from longcat.stages.formats.encoding import open_encoder

    return open_encoder(folder, choice)
