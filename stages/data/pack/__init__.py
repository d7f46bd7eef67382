"""The stage `data.pack`: documents to token files for training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from longcat.pipeline.config import StageConfig
from longcat.pipeline.documents import document_shards
from longcat.pipeline.errors import InputError
from longcat.pipeline.files import atomic_write
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.tokenizer.foresight import vocabulary_of
from longcat.stages.data.tokenizer.special import TOKENIZER_FILES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.data.pack.encode import EncodeTask

HASH_RANGE = 1 << 64


class PackConfig(StageConfig):
    """How documents are split between training and validation, and which packing indexes are made."""

    validation_fraction: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="Share of the documents that go to validation, chosen by a hash of their id.",
    )
    pack_lengths: tuple[Annotated[int, Field(ge=2, le=1 << 24)], ...] = Field(
        default=(),
        description="Lengths in tokens of the sequences for which an index of best-fit packing is written.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the split.")


def _check(config: PackConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    known = vocabulary_of(inputs["tokenizer"][0])
    return {} if known is None else {"vocab_size": known}


@stage(
    "data.pack",
    revision=2,
    inputs={"documents": "documents", "tokenizer": "tokenizer", "scores": "report?"},
    output="tokens",
    check=_check,
)
def pack_documents(context: Context[PackConfig]) -> Result:
    """Tokenise documents into `train` and `validation` token files; every document ends with the end token.

    The files of the tokenizer are copied beside them, so that training needs this artifact alone. For every length in
    `pack_lengths` there is an index of best-fit packing of the training documents. With scores from `data score` those
    of the training documents lie beside the tokens, for `data mix`.

    Raises:
        InputError: there are fewer than two documents, the tokenizer cannot be read, or the scores are of others.
        IntegrityError: a shard or its scores are damaged.
    """
    from longcat.stages.data.pack.encode import EncodeTask, encode_shard
    from longcat.stages.data.score.files import scores_of

    documents, tokenizer = context.input("documents"), context.input("tokenizer")
    shards = document_shards(documents)
    scores = context.optional("scores")
    scored = scores_of(scores, documents, len(shards)) if scores else [None] * len(shards)
    tasks = [
        EncodeTask(
            shard=shard,
            tokenizer=tokenizer.path,
            tokens=context.work / f"tokens-{number:05d}.bin",
            table=context.work / f"documents-{number:05d}.npy",
            seed=context.config.seed,
            scores=path,
            scored=context.work / f"scores-{number:05d}.npy",
        )
        for number, (shard, path) in enumerate(zip(shards, scored, strict=True))
    ]
    encoded = context.map_shards(encode_shard, tasks, description="tokenising")
    total = sum(part["documents"] for part in encoded)
    if total < 2:
        raise InputError(
            f"{total} documents with text; packing needs one to train on and one to validate on",
            where=str(documents.path),
        )
    counts = _join(context, tasks, encoded[0]["vocab_size"])
    if scores:
        _join_scores(context, tasks)
    packing = _index(context)
    for name in TOKENIZER_FILES:
        atomic_write(context.output / name, tokenizer.file(name).read_bytes())
    n_bytes, empty = (sum(part[name] for part in encoded) for name in ("bytes", "empty"))
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
            **({"packing": packing} if packing else {}),
        },
    )


def validation_limit(hashes: npt.ArrayLike, fraction: float) -> int:
    """Documents of a hash up to this one validate: about `fraction` of them, at least one, and not all.

    `hashes` has two values or more, of which two differ at least.
    """
    import numpy as np

    known = np.unique(np.asarray(hashes, dtype=np.uint64))
    limit = int(fraction * HASH_RANGE)
    return min(max(limit, int(known[0])), int(known[-1]) - 1)


def _limit(hashes: npt.NDArray[np.uint64], config: PackConfig) -> int:
    if (hashes == hashes[0]).all():
        raise InputError(f"all {len(hashes)} documents have one id, so they cannot be split")
    return validation_limit(hashes, config.validation_fraction)


def _join_scores(context: Context[PackConfig], tasks: Sequence[EncodeTask]) -> None:
    """Write the scores of the training documents in the order of the token file."""
    import numpy as np

    from longcat.stages.data.score.files import write_token_scores

    hashes = np.concatenate([np.load(task.table) for task in tasks])[:, 0]
    scores = np.concatenate([np.load(task.scored) for task in tasks])
    write_token_scores(context.output, scores[hashes > _limit(hashes, context.config)])


def _join(context: Context[PackConfig], tasks: Sequence[EncodeTask], vocab_size: int) -> dict[str, int]:
    """Write the documents of all parts, in order, to the two token files."""
    import numpy as np

    from longcat.pipeline.tokens import TokenWriter

    tables = [np.load(task.table) for task in tasks]
    hashes = np.concatenate(tables)[:, 0]
    limit = _limit(hashes, context.config)
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


def _index(context: Context[PackConfig]) -> dict[str, Any]:
    """Write the packing indexes that were asked for; what each came to, by its length."""
    if not context.config.pack_lengths:
        return {}
    from longcat.pipeline.tokens import TokenFile
    from longcat.stages.data.pack.packing import index_name, write_pack

    offsets = TokenFile(context.output / "train").document_offsets
    return {
        str(length): write_pack(context.output / index_name("train", length), offsets, length)
        for length in sorted(set(context.config.pack_lengths))
    }
