"""Stage `data.pack`: writes token files for training and validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from longcat.pipeline.config import RUNTIME, StageConfig
from longcat.pipeline.errors import InputError
from longcat.pipeline.files import atomic_write
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.special_tokens import TOKENIZER_FILES

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.document_inputs import DocumentInputs
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.data.pack.encode import EncodeTask

HASH_RANGE = 1 << 64
BLOCK_TOKENS = 1 << 22


class PackConfig(StageConfig):
    """Split between training and validation, and packing indexes."""

    validation_fraction: float = Field(
        default=0.005,
        gt=0,
        lt=1,
        description="Fraction of documents for validation, selected by a hash of their id.",
    )
    pack_lengths: tuple[Annotated[int, Field(ge=2, le=1 << 24)], ...] = Field(
        default=(),
        description="Sequence lengths in tokens for which a best-fit packing index is written.",
    )
    begin_token: bool | None = Field(
        default=None,
        description="Whether documents begin with the begin token, which the tokenizer files then state, so that "
        "prompts do too; null: if the tokenizer adds one to a text.",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the split.")
    encoder: Literal["auto", "gigatoken", "tokenizers"] = Field(
        default="auto",
        json_schema_extra=RUNTIME,
        description="Library that encodes; the ids are the same. auto: gigatoken for the tokenizers it supports.",
    )


def _check(config: PackConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    known = vocabulary_of(inputs["tokenizer"][0])
    return {} if known is None else {"vocab_size": known}


@stage(
    "data.pack",
    revision=2,
    inputs={"documents": "documents+", "tokenizer": "tokenizer", "scores": "report?"},
    output="tokens",
    check=_check,
)
def pack_documents(context: Context[PackConfig]) -> Result:
    """Tokenise documents into `train` and `validation` token files; every document ends with the end token.

    With `begin_token` it also begins with the begin token.

    The tokenizer files are included, so that training needs only this artifact. For every length in `pack_lengths` a
    best-fit packing index of the training documents is written. With scores from `data score`, those of the training
    documents are included for `data mix`.

    Raises:
        InputError: there are fewer than two documents, the tokenizer cannot be read, or the scores belong to other
            documents.
        IntegrityError: a shard or its scores are damaged, or two libraries give a document different ids.
    """
    from longcat.pipeline.document_inputs import plain_inputs
    from longcat.stages.data.pack.begin import changed_files
    from longcat.stages.data.pack.encode import encode_shard

    inputs, tokenizer = plain_inputs(context.many("documents")), context.input("tokenizer")
    scores = context.optional("scores")
    tasks = _tasks(context, inputs, tokenizer, scores)
    encoded = context.map_shards(encode_shard, tasks, description="tokenising")
    total = sum(part["documents"] for part in encoded)
    if total < 2:
        raise InputError(
            f"{total} documents with text; packing needs one to train on and one to validate on",
            where=inputs.places,
        )
    counts = _join(context, tasks, encoded[0]["vocab_size"])
    if scores:
        _join_scores(context, tasks)
    packing = _index(context)
    changed = changed_files(tokenizer.path, context.config.begin_token)
    for name in TOKENIZER_FILES:
        atomic_write(context.output / name, changed.get(name) or tokenizer.file(name).read_bytes())
    n_bytes, empty = (sum(part[name] for part in encoded) for name in ("bytes", "empty"))
    tokens = counts["train_tokens"] + counts["validation_tokens"]
    return Result(
        counts={
            "documents_in": total + empty,
            "documents_out": total,
            "dropped": {"empty": empty} if empty else {},
            **counts,
            **inputs.counts(encoded, ("documents", "empty")),
        },
        metrics={
            "bytes": n_bytes,
            "bytes_per_token": round(n_bytes / (tokens - total * (1 + encoded[0]["begin"])), 4),
            "vocab_size": encoded[0]["vocab_size"],
            "lengths": _lengths(context.output),
            **({"packing": packing} if packing else {}),
        },
        performance=_encoding(encoded),
    )


def _tasks(
    context: Context[PackConfig], inputs: DocumentInputs, tokenizer: Artifact, scores: Artifact | None
) -> list[EncodeTask]:
    from longcat.stages.data.pack.encode import EncodeTask

    return [
        EncodeTask(
            shard=shard.path,
            tokenizer=tokenizer.path,
            tokens=context.work / f"tokens-{number:05d}.bin",
            table=context.work / f"documents-{number:05d}.npy",
            seed=context.config.seed,
            scores=path,
            scored=context.work / f"scores-{number:05d}.npy",
            encoder=context.config.encoder,
            begin_token=context.config.begin_token,
        )
        for number, (shard, path) in enumerate(zip(inputs.shards, _score_files(scores, inputs), strict=True))
    ]


def _encoding(encoded: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The libraries that encoded, and how many documents were compared."""
    # An interrupted run of an older version recorded neither.
    found = [part["encoder"] for part in encoded if "encoder" in part]
    return {
        "encoders": list({tuple(encoder.items()): encoder for encoder in found}.values()),
        "compared_documents": sum(part.get("compared", 0) for part in encoded),
    }


def _score_files(scores: Artifact | None, inputs: DocumentInputs) -> Sequence[Path | None]:
    """Score file of every shard; None without scores."""
    from longcat.stages.formats.scores import scores_of

    if scores is None:
        return [None] * len(inputs.shards)
    sizes = [(one, sum(shard.artifact == one.id for shard in inputs.shards)) for one in inputs.artifacts]
    return [path for one, shards in sizes for path in scores_of(scores, one, shards)]


def validation_limit(hashes: npt.ArrayLike, fraction: float) -> int:
    """Hash threshold for validation: about `fraction` of the documents, at least one, and not all.

    `hashes` has at least two distinct values.
    """
    import numpy as np

    known = np.unique(np.asarray(hashes, dtype=np.uint64))
    limit = int(fraction * HASH_RANGE)
    return min(max(limit, int(known[0])), int(known[-1]) - 1)


def _limit(hashes: npt.NDArray[np.uint64], config: PackConfig) -> int:
    if (hashes == hashes[0]).all():
        raise InputError(f"all {len(hashes)} documents have the same id, so they cannot be split")
    return validation_limit(hashes, config.validation_fraction)


def _join_scores(context: Context[PackConfig], tasks: Sequence[EncodeTask]) -> None:
    """Write the scores of the training documents in the order of the token file."""
    import numpy as np

    from longcat.stages.formats.scores import write_token_scores

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
            in_validation, lengths = table[:, 0] <= limit, table[:, 1].astype(np.int64)
            for first, last, ids in _blocks(task.tokens, lengths, train.dtype):
                for kind, writer in (("train", train), ("validation", validation)):
                    chosen = in_validation[first:last] == (kind == "validation")
                    tokens = ids[np.repeat(chosen, lengths[first:last])]
                    writer.add_documents(tokens, lengths[first:last][chosen].tolist())
                    counts[f"{kind}_documents"] += int(chosen.sum())
                    counts[f"{kind}_tokens"] += len(tokens)
                bar.advance(last - first)
    return counts


def _blocks(
    path: Path, lengths: npt.NDArray[np.int64], dtype: type[np.generic]
) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
    """Number of the first document and of the one after the last, and their ids, in blocks of bounded size."""
    import numpy as np

    if not len(lengths):
        return
    tokens = np.memmap(path, dtype=dtype, mode="r")
    ends = np.cumsum(lengths)
    first = start = 0
    while first < len(lengths):
        last = max(int(np.searchsorted(ends, start + BLOCK_TOKENS, side="right")), first + 1)
        yield first, last, tokens[start : int(ends[last - 1])]
        first, start = last, int(ends[last - 1])


def _lengths(output: Path) -> list[dict[str, Any]]:
    """Training documents by length."""
    import numpy as np

    from longcat.pipeline.tokens import TokenFile
    from longcat.stages.formats.lengths import length_rows

    return length_rows(np.diff(TokenFile(output / "train").document_offsets))


def _index(context: Context[PackConfig]) -> dict[str, Any]:
    """Write the requested packing indexes; returns their statistics by length."""
    if not context.config.pack_lengths:
        return {}
    from longcat.pipeline.tokens import TokenFile
    from longcat.stages.data.pack.packing import index_name, write_pack

    offsets = TokenFile(context.output / "train").document_offsets
    return {
        str(length): write_pack(context.output / index_name("train", length), offsets, length)
        for length in sorted(set(context.config.pack_lengths))
    }
