"""The stage `data.tokenizer`: a byte-level BPE tokenizer learnt from documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.documents import document_shards
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.tokenizer.config import BYTE_ALPHABET, TokenizerConfig
from longcat.stages.data.tokenizer.special import SPECIAL_TOKENS

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.data.tokenizer.sample import Sample


def _check(config: TokenizerConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    return {"vocab_size": config.vocab_size}


@stage("data.tokenizer", revision=2, inputs={"documents": "documents"}, output="tokenizer", check=_check)
def train_tokenizer(context: Context[TokenizerConfig]) -> Result:
    """Learn a byte-level BPE vocabulary from a sample of the documents, and measure it on others.

    Raises:
        InputError: there are no documents, or they give fewer merges than the vocabulary needs.
        IntegrityError: a shard is damaged.
    """
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.tokenizer.bpe import train
    from longcat.stages.data.tokenizer.files import write_tokenizer
    from longcat.stages.data.tokenizer.sample import texts_between
    from longcat.stages.tokenizer import load_tokenizer

    documents, config = context.input("documents"), context.config
    shards = document_shards(documents)
    sample = _choose_sample(context, shards)

    with context.progress.task("training", total=sample.trained_documents, unit="documents") as bar:

        def texts() -> Iterator[str]:
            for text in texts_between(shards, config.seed, 0, sample.last_trained):
                bar.advance()
                yield text

        tokenizer = train(texts(), config)
    found = tokenizer.get_vocab_size()
    if found < config.vocab_size:
        fixed = len(SPECIAL_TOKENS) + BYTE_ALPHABET
        raise InputError(
            f"{sample.trained_bytes} bytes of text give {found - fixed} merges, "
            f"a vocabulary of {config.vocab_size} needs {config.vocab_size - fixed}",
            where=str(documents.path),
            hint=f"set vocab_size to {found} or less, lower min_frequency, or give more text",
        )
    write_tokenizer(tokenizer, context.output)

    held_out = texts_between(shards, config.seed, sample.first_held_out, (1 << 64) - 1)
    tokens = sum(map(len, load_tokenizer(context.output).encode_batch(list(held_out))))
    return Result(
        counts={
            "documents_in": sample.documents,
            "documents_trained": sample.trained_documents,
            "documents_held_out": sample.held_out_documents,
        },
        metrics={
            "vocab_size": found,
            "merges": found - len(SPECIAL_TOKENS) - BYTE_ALPHABET,
            "trained_bytes": sample.trained_bytes,
            "held_out_bytes": sample.held_out_bytes,
            "held_out_tokens": tokens,
            "held_out_bytes_per_token": round(sample.held_out_bytes / tokens, 4) if tokens else None,
        },
    )


def _choose_sample(context: Context[TokenizerConfig], shards: Sequence[Path]) -> Sample:
    """Measure all documents and choose those to learn from and those to measure on."""
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.tokenizer.sample import MeasureTask, choose, measure_shard

    config = context.config
    tasks = [
        MeasureTask(shard, context.work / f"sizes-{number:05d}.npy", config.seed) for number, shard in enumerate(shards)
    ]
    measured = context.map_shards(measure_shard, tasks, description="measuring")
    if not sum(result["documents"] for result in measured):
        raise InputError("there are no documents to learn from", where=str(context.input("documents").path))
    return choose([task.sizes for task in tasks], config.sample_bytes, config.held_out_bytes)
