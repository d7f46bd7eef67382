"""The stage `data.mix`: shares, caps, order, and that training takes what it writes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from pydantic import Field

import stages.data.mixture  # noqa: F401  registers the stage
from pipeline.artifact import Artifact
from pipeline.config import StageConfig
from pipeline.errors import ConfigError, InputError
from pipeline.runner import Session, run_stage
from pipeline.stage import Context, Result, stage
from pipeline.tokens import TokenFile, TokenWriter
from stages.data.mixture.plan import draw, interleave

VOCABULARY = 61
MakeTokens = Callable[..., Artifact]


class _Source(StageConfig):
    lengths: tuple[int, ...] = Field(description="Tokens of each training document.")
    first: int = Field(description="The token that fills the documents of this source.")
    words: int = Field(default=VOCABULARY, description="Words of the tokenizer.")


@stage("test.mixture.tokens", revision=1, inputs={}, output="tokens")
def _write(context: Context[_Source]) -> Result:
    """Documents that hold the source's token, then the document's number, and end with 2."""
    from tokenizers import Tokenizer, models

    config = context.config
    for split, lengths in {"train": config.lengths, "validation": (20,) * 10}.items():
        with TokenWriter(context.output / split, VOCABULARY) as writer:
            for number, length in enumerate(lengths):
                writer.add_document([config.first] * (length - 2) + [3 + number % 50, 2])
    vocabulary = {f"w{index}": index for index in range(config.words)}
    Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(context.output / "tokenizer.json"))
    (context.output / "tokenizer_config.json").write_text("{}")
    return Result({"train_documents": len(config.lengths)})


@pytest.fixture
def make_tokens(session: Session) -> MakeTokens:
    def make(lengths: Sequence[int], first: int, words: int = VOCABULARY) -> Artifact:
        config = {"lengths": list(lengths), "first": first, "words": words}
        return run_stage(session, "test.mixture.tokens", config).artifact

    return make


@pytest.fixture
def three(make_tokens: MakeTokens) -> list[Artifact]:
    """Sources of 8000, 4000 and 2000 training tokens, whose documents begin with 57, 58 and 59."""
    return [make_tokens([40] * 200, 57), make_tokens([100] * 40, 58), make_tokens([20] * 50 + [500] * 2, 59)]


def mixed(session: Session, sources: list[Artifact], **config: object) -> Artifact:
    return run_stage(session, "data.mix", config, {"tokens": sources}).artifact


def documents(artifact: Artifact, split: str = "train") -> list[list[int]]:
    tokens = TokenFile(artifact.path / split)
    return [tokens.document(number).tolist() for number in range(tokens.n_documents)]


def test_the_shares_are_those_asked_for(session: Session, three: list[Artifact]) -> None:
    artifact = mixed(session, three, weights=[3, 5, 2], labels=["general", "stem", "code"], token_budget=10_000)
    by_source: Counter[int] = Counter()
    for document in documents(artifact):
        by_source[document[0]] += len(document)
    assert sum(by_source.values()) == artifact.manifest.counts["train_tokens"]
    for source, share in {57: 0.3, 58: 0.5, 59: 0.2}.items():
        assert by_source[source] / 10_000 == pytest.approx(share, abs=0.03)
    report = json.loads(artifact.file("mixture.json").read_text())
    assert report == artifact.manifest.metrics["sources"]
    assert [row["source"] for row in report] == ["general", "stem", "code"]
    assert [row["tokens"] for row in report] == [by_source[57], by_source[58], by_source[59]]
    assert report[1]["epochs"] == pytest.approx(1.25, abs=0.03)
    assert sum(row["share"] for row in report) == pytest.approx(1, abs=1e-5)


def test_documents_are_whole_and_none_comes_an_epoch_early(session: Session, three: list[Artifact]) -> None:
    artifact = mixed(session, three, weights=[3, 5, 2], token_budget=10_000)
    known = {tuple(document) for source in three for document in documents(source)}
    assert all(tuple(document) in known for document in documents(artifact))
    # The second source's documents all differ: in 1.25 epochs each comes once or twice.
    times = Counter(tuple(document) for document in documents(artifact) if document[0] == 58)
    assert len(times) == 40
    assert set(times.values()) == {1, 2}


def test_each_source_is_spread_from_first_to_last(session: Session, three: list[Artifact]) -> None:
    artifact = mixed(session, three, weights=[3, 5, 2], token_budget=10_000)
    stream = np.concatenate([[document[0]] * len(document) for document in documents(artifact)])
    # A quarter is five of the longest documents.
    for quarter in np.array_split(stream, 4):
        assert (quarter == 57).mean() == pytest.approx(0.3, abs=0.1)
        assert (quarter == 58).mean() == pytest.approx(0.5, abs=0.1)


def test_without_a_budget_the_first_source_to_reach_its_cap_ends_it(session: Session, three: list[Artifact]) -> None:
    artifact = mixed(session, three, weights=[1, 1, 1], max_epochs=[1, 1, 1.5])
    rows = artifact.manifest.metrics["sources"]
    assert [row["epochs"] for row in rows] == pytest.approx([3000 / 8000, 3000 / 4000, 1.5], abs=0.13)


def test_more_than_the_cap_allows_is_refused_with_what_would_do(session: Session, three: list[Artifact]) -> None:
    with pytest.raises(InputError) as error:
        mixed(session, three, weights=[1, 1, 2], token_budget=10_000, max_epochs=[2])
    assert "source '2' has 2000 tokens; its share of 10000 takes 2.50 epochs, 2 are allowed" in str(error.value)
    assert "lower token_budget to 8000" in str(error.value)


def test_only_long_documents(session: Session, three: list[Artifact]) -> None:
    artifact = mixed(session, three, weights=[1, 1, 1], min_document_tokens=[0, 0, 500], token_budget=3000)
    assert {len(document) for document in documents(artifact) if document[0] == 59} == {500}
    with pytest.raises(InputError, match="no document of 501 tokens"):
        mixed(session, three, weights=[1, 1, 1], min_document_tokens=[0, 0, 501])


def test_validation_has_the_same_shares_and_repeats_nothing(session: Session, three: list[Artifact]) -> None:
    held_out = documents(mixed(session, three, weights=[2, 1, 1]), "validation")
    assert Counter(document[0] for document in held_out) == {57: 10, 58: 5, 59: 5}
    assert len({tuple(document) for document in held_out}) == 20


def test_the_seed_decides_and_nothing_else(session: Session, three: list[Artifact]) -> None:
    again = run_stage(session, "data.mix", {"weights": [1, 1, 1]}, {"tokens": three}).artifact
    other = mixed(session, three, weights=[1, 1, 1], seed=1)
    assert documents(again) != documents(other)
    lengths = np.array([5, 9, 30, 2, 14])
    chosen = np.array([0, 1, 2, 4])
    short, long = draw(lengths, chosen, 100, 7, 0), draw(lengths, chosen, 400, 7, 0)
    assert long.documents[: len(short.documents)].tolist() == short.documents.tolist()
    assert long.total == pytest.approx(400, abs=15)
    assert Counter(long.documents[:8].tolist()) == dict.fromkeys(chosen.tolist(), 2)
    assert sorted(interleave([short, long])[0].tolist()) == [0] * len(short.documents) + [1] * len(long.documents)


def test_sources_of_two_tokenizers_are_refused(session: Session, make_tokens: MakeTokens) -> None:
    sources = [make_tokens([40] * 20, 57), make_tokens([40] * 20, 58, words=VOCABULARY + 1)]
    with pytest.raises(InputError, match="source 'b' has another tokenizer than source 'a'"):
        mixed(session, sources, weights=[1, 1], labels=["a", "b"])


def test_a_weight_too_many_is_refused(session: Session, three: list[Artifact]) -> None:
    with pytest.raises(ConfigError, match="2 weights for 3 sources"):
        mixed(session, three, weights=[1, 1])
    with pytest.raises(ConfigError, match="max_epochs: 2 values for 3 weights"):
        mixed(session, three, weights=[1, 1, 1], max_epochs=[1, 2])


def test_training_takes_a_mixture_and_goes_on_with_the_next(session: Session, three: list[Artifact]) -> None:
    general = mixed(session, three, weights=[8, 1, 1])
    focused = mixed(session, three, weights=[3, 5, 2])
    settings = {
        "steps": 2,
        "sequence_length": 32,
        "batch_size": 2,
        "device": "cpu",
        "threads": 1,
        "evaluation": {"windows": 2},
    }
    first = run_stage(session, "train", {**settings, "preset": "smoke"}, {"tokens": general}).artifact
    second = run_stage(session, "train", settings, {"tokens": focused, "checkpoint": first}).artifact
    assert second.kind == "checkpoint"
