"""The stage `data.mix`: token files of several sources to one, in given shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Artifact
from pipeline.errors import ConfigError, InputError
from pipeline.stage import Context, Result, stage
from stages.data.mixture.config import MixConfig

if TYPE_CHECKING:
    from pipeline.tokens import TokenFile
    from stages.data.mixture.plan import Draw, Numbers


@stage("data.mix", revision=1, inputs={"tokens": "tokens+"}, output="tokens")
def mix_tokens(context: Context[MixConfig]) -> Result:
    """Mix token files of several sources by weights, none repeated more often than allowed.

    Writes `train` and `validation` token files like those of `data pack`, with the tokenizer's files, so that training
    takes the mixture as it takes a source. `mixture.json` has the share of each source, wanted and realised. Stages of
    a curriculum are mixtures of their own, trained on one after the other.

    Raises:
        ConfigError: the number of weights is not that of the sources.
        InputError: the sources have different tokenizers, or one has not enough tokens for its share.
    """
    from pipeline.files import atomic_write, pretty_json
    from stages.data.mixture.plan import shares
    from stages.data.tokenizer.special import TOKENIZER_FILES

    config, sources = context.config, context.many("tokens")
    if len(sources) != len(config.weights):
        raise ConfigError(f"{len(config.weights)} weights for {len(sources)} sources", where="weights")
    vocabulary = _common_vocabulary(sources, config)
    wanted = shares(config.weights)
    draws = _draw_training(sources, config, wanted)
    held_out = _draw_validation(sources, config, wanted)
    counts = {}
    for split, taken in (("train", draws), ("validation", held_out)):
        _write(context, split, sources, taken, vocabulary)
        counts[f"{split}_tokens"] = sum(part.total for part in taken)
        counts[f"{split}_documents"] = sum(len(part.documents) for part in taken)
    for name in TOKENIZER_FILES:
        if (sources[0].path / name).is_file():
            atomic_write(context.output / name, sources[0].file(name).read_bytes())
    report = [
        {
            "source": config.label(number),
            "tokens": taken.total,
            "documents": len(taken.documents),
            "share_wanted": round(share, 6),
            "share": round(taken.total / counts["train_tokens"], 6),
            "epochs": round(taken.total / _size(source, config, number), 4),
            "validation_tokens": aside.total,
        }
        for number, (source, taken, aside, share) in enumerate(zip(sources, draws, held_out, wanted, strict=True))
    ]
    atomic_write(context.output / "mixture.json", pretty_json(report))
    return Result(counts=counts, metrics={"sources": report, "vocab_size": vocabulary})


def _common_vocabulary(sources: Sequence[Artifact], config: MixConfig) -> int:
    """Size of the vocabulary that all sources share."""
    from tokenizers import Tokenizer

    from pipeline.files import sha256_file

    digests = [sha256_file(source.file("tokenizer.json")) for source in sources]
    for number, digest in enumerate(digests):
        if digest != digests[0]:
            raise InputError(
                f"source {config.label(number)!r} has another tokenizer than source {config.label(0)!r}",
                where=str(sources[number].path),
                hint="pack all sources with one tokenizer: longcat data pack --tokenizer",
            )
    return int(Tokenizer.from_file(str(sources[0].file("tokenizer.json"))).get_vocab_size())


def _open(source: Artifact, split: str) -> tuple[TokenFile, Numbers]:
    import numpy as np

    from pipeline.tokens import TokenFile

    tokens = TokenFile(source.path / split)
    return tokens, np.diff(tokens.document_offsets)


def _chosen(lengths: Numbers, config: MixConfig, number: int) -> Numbers:
    import numpy as np

    return np.flatnonzero(lengths >= max(1, config.min_tokens(number)))


def _size(source: Artifact, config: MixConfig, number: int) -> int:
    """Tokens of the documents of a source that may be taken."""
    lengths = _open(source, "train")[1]
    return int(lengths[_chosen(lengths, config, number)].sum())


def _draw_training(sources: Sequence[Artifact], config: MixConfig, wanted: Sequence[float]) -> list[Draw]:
    from stages.data.mixture.plan import draw, largest_budget

    sizes = [_size(source, config, number) for number, source in enumerate(sources)]
    for number, size in enumerate(sizes):
        if not size:
            raise InputError(
                f"source {config.label(number)!r} has no document of {config.min_tokens(number)} tokens or more",
                where=str(sources[number].path),
                hint="lower min_document_tokens",
            )
    most, shortest = largest_budget(sizes, wanted, [config.epochs(number) for number in range(len(sources))])
    budget = config.token_budget or int(most)
    if budget > most:
        raise InputError(
            f"source {config.label(shortest)!r} has {sizes[shortest]} tokens; its share of {budget} takes "
            f"{wanted[shortest] * budget / sizes[shortest]:.2f} epochs, {config.epochs(shortest):g} are allowed",
            where=str(sources[shortest].path),
            hint=f"lower token_budget to {int(most)} or its weight, or raise max_epochs",
        )
    draws = []
    for number, (source, share) in enumerate(zip(sources, wanted, strict=True)):
        lengths = _open(source, "train")[1]
        draws.append(draw(lengths, _chosen(lengths, config, number), share * budget, config.seed, number))
    return draws


def _draw_validation(sources: Sequence[Artifact], config: MixConfig, wanted: Sequence[float]) -> list[Draw]:
    """The largest mixture of validation documents of any length in which none is repeated, one a source at least."""
    import numpy as np

    from stages.data.mixture.plan import draw, largest_budget

    lengths = [_open(source, "validation")[1] for source in sources]
    sizes = [int(own.sum()) for own in lengths]
    if not all(sizes):
        empty = sizes.index(0)
        raise InputError(f"source {config.label(empty)!r} has no validation tokens", where=str(sources[empty].path))
    budget, _ = largest_budget(sizes, wanted, [1.0] * len(sizes))
    return [
        draw(own, np.flatnonzero(own), share * budget, config.seed, number)
        for number, (own, share) in enumerate(zip(lengths, wanted, strict=True))
    ]


def _write(
    context: Context[Any], split: str, sources: Sequence[Artifact], draws: Sequence[Draw], vocabulary: int
) -> None:
    """One token file of the documents drawn, the sources interleaved."""
    from pipeline.tokens import TokenWriter
    from stages.data.mixture.plan import interleave

    files = [_open(source, split)[0] for source in sources]
    places = zip(*(column.tolist() for column in interleave(draws)), strict=True)
    total = sum(len(taken.documents) for taken in draws)
    with (
        TokenWriter(context.output / split, vocabulary) as writer,
        context.progress.task(f"mixing {split}", total=total, unit="documents") as bar,
    ):
        for source, document in places:
            writer.add_document(files[source].document(document))
            bar.advance()
