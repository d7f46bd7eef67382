"""Tokens artifacts made in tests, with or without scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydantic import Field

import longcat.stages.data.mixture  # noqa: F401  registers the stage
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import StageConfig
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import Context, Result, stage
from longcat.pipeline.tokens import TokenFile, TokenWriter
from longcat.stages.formats.scores import write_token_scores

VOCABULARY = 61
MakeTokens = Callable[..., Artifact]


class _Source(StageConfig):
    lengths: tuple[int, ...] = Field(description="Number of tokens of each training document.")
    first: int = Field(description="Token that fills the documents of this source.")
    words: int = Field(default=VOCABULARY, description="Words of the tokenizer.")
    scores: tuple[tuple[float, float], ...] = Field(default=(), description="Quality and diversity of each document.")


@stage("test.mixture.tokens", revision=1, inputs={}, output="tokens")
def _write(context: Context[_Source]) -> Result:
    """Documents of the source's token, then the document number as two digits in base 50, then token 2."""
    from tokenizers import Tokenizer, models

    config = context.config
    for split, lengths in {"train": config.lengths, "validation": (20,) * 10}.items():
        with TokenWriter(context.output / split, VOCABULARY) as writer:
            for number, length in enumerate(lengths):
                writer.add_document([config.first] * (length - 3) + [3 + number // 50, 3 + number % 50, 2])
    if config.scores:
        write_token_scores(context.output, np.array(config.scores, dtype=np.float32))
    vocabulary = {f"w{index}": index for index in range(config.words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(context.output / "tokenizer.json"))
    (context.output / "tokenizer_config.json").write_text("{}")
    return Result({"train_documents": len(config.lengths)})


@pytest.fixture
def make_tokens(session: Session) -> MakeTokens:
    def make(
        lengths: Sequence[int], first: int, words: int = VOCABULARY, scores: Sequence[tuple[float, float]] = ()
    ) -> Artifact:
        config = {"lengths": list(lengths), "first": first, "words": words, "scores": [list(pair) for pair in scores]}
        return run_stage(session, "test.mixture.tokens", config).artifact

    return make


@pytest.fixture
def three(make_tokens: MakeTokens) -> list[Artifact]:
    """Sources of 8000, 4000 and 2000 training tokens, whose documents begin with 57, 58 and 59."""
    return [make_tokens([40] * 200, 57), make_tokens([100] * 40, 58), make_tokens([20] * 50 + [500] * 2, 59)]


@pytest.fixture
def mixed(session: Session) -> Callable[..., Artifact]:
    """Mix sources with a configuration given by keywords."""

    def mix(sources: list[Artifact], **config: object) -> Artifact:
        return run_stage(session, "data.mix", config, {"tokens": sources}).artifact

    return mix


@pytest.fixture
def documents() -> Callable[..., list[list[int]]]:
    """The documents of one split of a tokens artifact."""

    def read(artifact: Artifact, split: str = "train") -> list[list[int]]:
        tokens = TokenFile(artifact.path / split)
        return [tokens.document(number).tolist() for number in range(tokens.n_documents)]

    return read
