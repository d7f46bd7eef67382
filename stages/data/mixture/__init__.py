"""Stage `data.mix`: mixes token files of several sources in given proportions, optionally as a curriculum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.stage import Context, Result, stage
from longcat.stages.data.mixture.config import MixConfig, resolve
from longcat.stages.formats.planned_vocabulary import vocabulary_of

if TYPE_CHECKING:
    from longcat.pipeline.plans import PlannedInput
    from longcat.stages.data.mixture.document_order import Draw


def _check(config: MixConfig, inputs: Mapping[str, tuple[PlannedInput, ...]]) -> dict[str, Any]:
    resolve(config, len(inputs["tokens"]))
    known = {vocabulary_of(tokens) for tokens in inputs["tokens"]} - {None}
    if len(known) > 1:
        raise InputError(
            f"the sources have vocabularies of {' and '.join(map(str, sorted(known, key=str)))} tokens",
            hint="pack all of them with one tokenizer",
        )
    return {"vocab_size": known.pop()} if known else {}


@stage("data.mix", revision=2, inputs={"tokens": "tokens+"}, output="tokens", resumes=False, check=_check)
def mix_tokens(context: Context[MixConfig]) -> Result:
    """Mix token files of several sources by weights, with limited repetition.

    Writes `train` and `validation` token files like those of `data pack`, with the tokenizer's files, so that training
    reads the mixture like a source. With `stages` the training documents are ordered by stage, described in
    `curriculum.json`. `mixture.json` has the requested and realised shares of every stage and source.

    Raises:
        ConfigError: the number of values of a setting differs from the number of sources.
        InputError: the sources have different tokenizers, or one lacks tokens for its share, documents of a length, or
            scores.
    """
    import numpy as np

    from longcat.pipeline.files import atomic_write, pretty_json
    from longcat.stages.data.mixture.draws import draw_training, draw_validation, open_pools
    from longcat.stages.data.mixture.report import bucket_rows, overall_shares, source_rows, stage_rows
    from longcat.stages.formats.curriculum import CurriculumStage, write_curriculum
    from longcat.stages.formats.lengths import length_rows
    from longcat.stages.formats.special_tokens import TOKENIZER_FILES

    config, sources = context.config, context.many("tokens")
    stages = resolve(config, len(sources))
    vocabulary = _common_vocabulary(sources, config)
    pools = open_pools(sources, stages, config)
    drawn = draw_training(sources, pools, stages, config)
    held_out = draw_validation(sources, overall_shares(stages, drawn), config)
    counts = {}
    for split, parts in (("train", drawn), ("validation", [held_out])):
        _write(context, split, sources, parts, vocabulary)
        counts[f"{split}_tokens"] = sum(taken.total for draws in parts for taken in draws)
        counts[f"{split}_documents"] = sum(len(taken.documents) for draws in parts for taken in draws)
    for name in TOKENIZER_FILES:
        if (sources[0].path / name).is_file():
            atomic_write(context.output / name, sources[0].file(name).read_bytes())
    report = {"sources": source_rows(config, stages, pools, drawn, held_out)}
    if config.stages or config.sampling == "samplemix":
        report["stages"] = stage_rows(config, stages, drawn, sources)
    if by_length := bucket_rows(config, stages, drawn):
        report["length_buckets"] = by_length
    atomic_write(context.output / "mixture.json", pretty_json(report))
    if config.stages:
        write_curriculum(
            context.output,
            [
                CurriculumStage(
                    name=named.name,
                    documents=sum(len(taken.documents) for taken in draws),
                    tokens=sum(taken.total for taken in draws),
                )
                for named, draws in zip(stages, drawn, strict=True)
            ],
        )
    lengths = length_rows(np.concatenate([taken.tokens for draws in drawn for taken in draws]))
    return Result(counts=counts, metrics={"vocab_size": vocabulary, **report, "lengths": lengths})


def _common_vocabulary(sources: Sequence[Artifact], config: MixConfig) -> int:
    """Vocabulary size, common to all sources."""
    from longcat.pipeline.files import sha256_file
    from longcat.stages.formats.tokenizer_backend import read_vocabulary

    digests = [sha256_file(source.file("tokenizer.json")) for source in sources]
    for number, digest in enumerate(digests):
        if digest != digests[0]:
            raise InputError(
                f"source {config.label(number)!r} has a different tokenizer than source {config.label(0)!r}",
                where=str(sources[number].path),
                hint="pack all sources with one tokenizer: longcat data pack --tokenizer",
            )
    path = sources[0].file("tokenizer.json")
    try:
        return len(read_vocabulary(path))
    except ValueError as error:
        raise IntegrityError(f"no tokenizer: {error}", where=str(path)) from None


def _write(
    context: Context[Any], split: str, sources: Sequence[Artifact], parts: Sequence[Sequence[Draw]], vocabulary: int
) -> None:
    """Write one token file of the drawn documents: part by part, with sources interleaved."""
    from longcat.pipeline.tokens import TokenFile, TokenWriter
    from longcat.stages.data.mixture.document_order import interleave

    files = [TokenFile(source.path / split) for source in sources]
    total = sum(len(taken.documents) for draws in parts for taken in draws)
    with (
        TokenWriter(context.output / split, vocabulary) as writer,
        context.progress.task(f"mixing {split}", total=total, unit="documents") as bar,
    ):
        for draws in parts:
            for source, document in zip(*(column.tolist() for column in interleave(draws)), strict=True):
                writer.add_document(files[source].document(document))
                bar.advance()
