"""The stage `data.pack`: documents to token files for training and validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from pipeline.config import StageConfig
from pipeline.documents import Document, document_shards, read_documents
from pipeline.errors import InputError
from pipeline.files import atomic_path, atomic_write
from pipeline.stage import Context, Result, stage
from stages.data.tokenizer.special import TOKENIZER_FILES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from stages.tokenizer import Tokenizer

BATCH_DOCUMENTS = 256
BATCH_CHARACTERS = 1 << 20
HASH_RANGE = 1 << 64


class PackConfig(StageConfig):
    """How documents are split between training and validation."""

    validation_fraction: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="Share of the documents that go to validation, chosen by a hash of their id.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the split.")


@dataclass(frozen=True)
class EncodeTask:
    """Encode the documents of `shard`: ids to `tokens` (raw), hash and length of each to `table`, uint64 [n, 2]."""

    shard: Path
    tokenizer: Path
    tokens: Path
    table: Path
    seed: int


@stage("data.pack", revision=1, inputs={"documents": "documents", "tokenizer": "tokenizer"}, output="tokens")
def pack_documents(context: Context[PackConfig]) -> Result:
    """Tokenise documents into `train` and `validation` token files; every document ends with the end token.

    The files of the tokenizer are copied beside them, so that training needs this artifact alone.

    Raises:
        InputError: there are fewer than two documents, or the tokenizer cannot be read.
        IntegrityError: a shard is damaged.
    """
    documents, tokenizer = context.input("documents"), context.input("tokenizer")
    tasks = [
        EncodeTask(
            shard=shard,
            tokenizer=tokenizer.path,
            tokens=context.work / f"tokens-{number:05d}.bin",
            table=context.work / f"documents-{number:05d}.npy",
            seed=context.config.seed,
        )
        for number, shard in enumerate(document_shards(documents))
    ]
    encoded = context.map_shards(encode_shard, tasks, description="tokenising")
    total = sum(part["documents"] for part in encoded)
    if total < 2:
        raise InputError(
            f"{total} documents with text; packing needs one to train on and one to validate on",
            where=str(documents.path),
        )
    counts = _join(context, tasks, encoded[0]["vocab_size"])
    for name in TOKENIZER_FILES:
        atomic_write(context.output / name, tokenizer.file(name).read_bytes())
    n_bytes = sum(part["bytes"] for part in encoded)
    empty = sum(part["empty"] for part in encoded)
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    return Result(
        counts={
            "documents_in": total + empty,
            "documents_out": total,
            "dropped": {"empty": empty} if empty else {},
            **counts,
        },
        metrics={
            "bytes": n_bytes,
            "bytes_per_token": round(n_bytes / (tokens - total), 4),
            "vocab_size": encoded[0]["vocab_size"],
        },
    )


def split_hash(identifier: str, seed: int) -> int:
    """64 bits of a document's id, by which it goes to training or validation."""
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(identifier.encode(), digest_size=8, key=key, person=b"longcat-split")
    return int.from_bytes(digest.digest(), "little")


def validation_limit(hashes: Sequence[int], fraction: float) -> int:
    """Documents of a hash up to this one validate: about `fraction` of them, at least one, and not all.

    `hashes` has two values or more, of which two differ at least.
    """
    known = sorted(set(hashes))
    limit = int(fraction * HASH_RANGE)
    return min(max(limit, known[0]), known[-1] - 1)


def encode_shard(task: EncodeTask) -> dict[str, Any]:
    """Encode one shard; see `EncodeTask`. Documents without text are left out and counted."""
    import numpy as np

    from pipeline.tokens import dtype_for
    from stages.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(task.tokenizer)
    dtype = dtype_for(tokenizer.vocab_size)
    table: list[tuple[int, int]] = []
    n_bytes = empty = 0
    with atomic_path(task.tokens) as aside, aside.open("wb") as stream:
        for batch in _batches(task.shard):
            texts = [document for document in batch if document.text]
            empty += len(batch) - len(texts)
            for document, ids in zip(texts, _encode(tokenizer, texts), strict=True):
                stream.write(np.asarray(ids, dtype=dtype).tobytes())
                table.append((split_hash(document.id, task.seed), len(ids)))
                n_bytes += len(document.text.encode())
    with atomic_path(task.table) as aside, aside.open("wb") as stream:
        np.save(stream, np.array(table, dtype=np.uint64).reshape(-1, 2))
    return {"documents": len(table), "empty": empty, "bytes": n_bytes, "vocab_size": tokenizer.vocab_size}


def _encode(tokenizer: Tokenizer, documents: Sequence[Document]) -> Iterator[list[int]]:
    for ids in tokenizer.encode_batch([document.text for document in documents]):
        yield [*ids, tokenizer.eos_id]


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


def _join(context: Context[PackConfig], tasks: Sequence[EncodeTask], vocab_size: int) -> dict[str, int]:
    """Write the documents of all parts, in order, to the two token files."""
    import numpy as np

    from pipeline.tokens import TokenWriter

    tables = [np.load(task.table) for task in tasks]
    hashes = np.concatenate(tables)[:, 0]
    if len(np.unique(hashes)) < 2:
        raise InputError(f"all {len(hashes)} documents have one id, so they cannot be split")
    limit = validation_limit(hashes.tolist(), context.config.validation_fraction)
    counts = dict.fromkeys(("train_tokens", "validation_tokens", "train_documents", "validation_documents"), 0)
    with (
        TokenWriter(context.output / "train", vocab_size) as train,
        TokenWriter(context.output / "validation", vocab_size) as validation,
        context.progress.task("packing", total=len(hashes), unit="documents") as bar,
    ):
        for task, table in zip(tasks, tables, strict=True):
            for number, ids in _documents(task.tokens, table[:, 1], train.dtype):
                kind, writer = ("validation", validation) if table[number, 0] <= limit else ("train", train)
                writer.add_document(ids)
                counts[f"{kind}_documents"] += 1
                counts[f"{kind}_tokens"] += len(ids)
                bar.advance()
    return counts


def _documents(
    path: Path, lengths: npt.NDArray[np.uint64], dtype: type[np.generic]
) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    import numpy as np

    if not len(lengths):
        return
    tokens = np.memmap(path, dtype=dtype, mode="r")
    start = 0
    for number, length in enumerate(lengths.tolist()):
        yield number, tokens[start : start + length]
        start += length
