"""Stage `data.tokenizer`: trains a byte-level BPE tokenizer on documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.tokenizer.config import BYTE_ALPHABET, TokenizerConfig
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS

if TYPE_CHECKING:
    from longcat.pipeline.document_inputs import DocumentInputs
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.data.tokenizer.sample import Sample


def _check(config: TokenizerConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    return {"vocab_size": config.vocab_size}


@stage("data.tokenizer", revision=3, inputs={"documents": "documents+"}, output="tokenizer", check=_check)
def train_tokenizer(context: Context[TokenizerConfig]) -> Result:
    """Train a byte-level BPE tokenizer on a sample of the documents, and measure it on others.

    Raises:
        InputError: there are no documents, or they yield fewer merges than the vocabulary needs.
        IntegrityError: a shard is damaged.
    """
    from longcat.pipeline.document_inputs import plain_inputs
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.tokenizer.bpe import train
    from longcat.stages.data.tokenizer.files import write_tokenizer
    from longcat.stages.data.tokenizer.sample import texts_between
    from longcat.stages.formats.tokenizer import load_tokenizer

    inputs, config = plain_inputs(context.many("documents")), context.config
    shards = [shard.path for shard in inputs.shards]
    sample, measured = _choose_sample(context, inputs)

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
            f"{sample.trained_bytes} bytes of text yield {found - fixed} merges, "
            f"a vocabulary of {config.vocab_size} needs {config.vocab_size - fixed}",
            where=inputs.places,
            hint=f"set vocab_size to {found} or less, lower min_frequency, or use more text",
        )
    write_tokenizer(tokenizer, context.output)

    held_out = texts_between(shards, config.seed, sample.first_held_out, (1 << 64) - 1)
    tokens = sum(map(len, load_tokenizer(context.output).encode_batch(list(held_out))))
    return Result(
        counts={
            "documents_in": sample.documents,
            "documents_trained": sample.trained_documents,
            "documents_held_out": sample.held_out_documents,
            **inputs.counts(measured, ("documents",)),
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


def _choose_sample(context: Context[TokenizerConfig], inputs: DocumentInputs) -> tuple[Sample, list[dict[str, Any]]]:
    """Measure all documents and select those for training and for measurement; also the measurements by shard."""
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.tokenizer.sample import MeasureTask, choose, measure_shard

    config = context.config
    tasks = [
        MeasureTask(shard.path, context.work / f"sizes-{number:05d}.npy", config.seed)
        for number, shard in enumerate(inputs.shards)
    ]
    measured = context.map_shards(measure_shard, tasks, description="measuring")
    if not sum(result["documents"] for result in measured):
        raise InputError("there are no documents to train on", where=inputs.places)
    return choose([task.sizes for task in tasks], config.sample_bytes, config.held_out_bytes), measured
