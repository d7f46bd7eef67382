"""Stage `data.mix`: shares, caps, order, and training on a mixture."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.runner import Session, run_stage
from longcat.stages.data.mixture.document_order import Draw, Pool, draw, interleave
from longcat.stages.formats.lengths import length_rows

Mix = Callable[..., Artifact]
Read = Callable[..., list[list[int]]]


def test_the_shares_are_the_requested_ones(three: list[Artifact], mixed: Mix, documents: Read) -> None:
    artifact = mixed(three, weights=[3, 5, 2], labels=["general", "stem", "code"], token_budget=10_000)
    by_source: Counter[int] = Counter()
    for document in documents(artifact):
        by_source[document[0]] += len(document)
    assert sum(by_source.values()) == artifact.manifest.counts["train_tokens"]
    for source, share in {57: 0.3, 58: 0.5, 59: 0.2}.items():
        assert by_source[source] / 10_000 == pytest.approx(share, abs=0.03)
    report = json.loads(artifact.file("mixture.json").read_text())
    assert report == {"sources": artifact.manifest.metrics["sources"]}
    report = report["sources"]
    assert [row["source"] for row in report] == ["general", "stem", "code"]
    assert [row["tokens"] for row in report] == [by_source[57], by_source[58], by_source[59]]
    assert report[1]["epochs"] == pytest.approx(1.25, abs=0.03)
    assert sum(row["share"] for row in report) == pytest.approx(1, abs=1e-5)


def test_lengths_are_reported_of_the_mixture_and_of_every_stage(
    three: list[Artifact], mixed: Mix, documents: Read, session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = [{"name": "short", "share": 1, "weights": [1, 0, 0]}, {"name": "long", "share": 1, "weights": [0, 0, 1]}]
    artifact = mixed(three, stages=stages, token_budget=4000)
    lengths = [len(document) for document in documents(artifact)]
    assert artifact.manifest.metrics["lengths"] == length_rows(lengths)
    assert run(["--store", str(session.store.root), "data", "inspect", artifact.id, "--json"]) == 0
    tables = json.loads(capfd.readouterr().out)["tables"]
    assert tables["train"] == length_rows(lengths)
    assert tables["train, stage short"] == length_rows([length for length in lengths if length == 40])
    assert tables["train, stage long"] == length_rows([length for length in lengths if length != 40])
    assert list(tables) == ["train", "validation", "train, stage short", "train, stage long"]


def test_documents_are_complete_and_none_repeats_before_an_epoch(
    three: list[Artifact], mixed: Mix, documents: Read
) -> None:
    artifact = mixed(three, weights=[3, 5, 2], token_budget=10_000)
    known = {tuple(document) for source in three for document in documents(source)}
    assert all(tuple(document) in known for document in documents(artifact))
    # Documents of the second source all differ: in 1.25 epochs each occurs once or twice.
    times = Counter(tuple(document) for document in documents(artifact) if document[0] == 58)
    assert len(times) == 40
    assert set(times.values()) == {1, 2}


def test_each_source_is_spread_from_first_to_last(three: list[Artifact], mixed: Mix, documents: Read) -> None:
    artifact = mixed(three, weights=[3, 5, 2], token_budget=10_000)
    stream = np.concatenate([[document[0]] * len(document) for document in documents(artifact)])
    # A quarter is five of the longest documents.
    for quarter in np.array_split(stream, 4):
        assert (quarter == 57).mean() == pytest.approx(0.3, abs=0.1)
        assert (quarter == 58).mean() == pytest.approx(0.5, abs=0.1)


def test_without_a_budget_the_first_source_at_its_cap_sets_the_size(three: list[Artifact], mixed: Mix) -> None:
    artifact = mixed(three, weights=[1, 1, 1], max_epochs=[1, 1, 1.5])
    rows = artifact.manifest.metrics["sources"]
    assert [row["epochs"] for row in rows] == pytest.approx([3000 / 8000, 3000 / 4000, 1.5], abs=0.13)


def test_more_than_the_cap_allows_is_refused_with_a_valid_budget(three: list[Artifact], mixed: Mix) -> None:
    with pytest.raises(InputError) as error:
        mixed(three, weights=[1, 1, 2], token_budget=10_000, max_epochs=[2])
    assert "source '2' has 2000 tokens; its share of 10000 takes 2.50 epochs, 2 are allowed" in str(error.value)
    assert "lower token_budget to 8000" in str(error.value)


def test_only_long_documents(three: list[Artifact], mixed: Mix, documents: Read) -> None:
    artifact = mixed(three, weights=[1, 1, 1], min_document_tokens=[0, 0, 500], token_budget=3000)
    assert {len(document) for document in documents(artifact) if document[0] == 59} == {500}
    with pytest.raises(InputError, match="no document of 501 tokens"):
        mixed(three, weights=[1, 1, 1], min_document_tokens=[0, 0, 501])


def test_validation_has_the_same_shares_and_repeats_nothing(three: list[Artifact], mixed: Mix, documents: Read) -> None:
    held_out = documents(mixed(three, weights=[2, 1, 1]), "validation")
    assert Counter(document[0] for document in held_out) == {57: 10, 58: 5, 59: 5}
    assert len({tuple(document) for document in held_out}) == 20


def test_the_draw_depends_only_on_the_seed(
    session: Session, three: list[Artifact], mixed: Mix, documents: Read
) -> None:
    again = run_stage(session, "data.mix", {"weights": [1, 1, 1]}, {"tokens": three}).artifact
    other = mixed(three, weights=[1, 1, 1], seed=1)
    assert documents(again) != documents(other)
    chosen = np.array([0, 1, 2, 4])

    def drawn(target: float) -> Draw:
        return draw(Pool(0, np.array([5, 9, 30, 2, 14]), 10.0), chosen, target, 7)

    short, long = drawn(100), drawn(400)
    assert long.documents[: len(short.documents)].tolist() == short.documents.tolist()
    assert long.total == pytest.approx(400, abs=15)
    assert Counter(long.documents[:8].tolist()) == dict.fromkeys(chosen.tolist(), 2)
    assert sorted(interleave([short, long])[0].tolist()) == [0] * len(short.documents) + [1] * len(long.documents)


def test_sources_of_two_tokenizers_are_refused(make_tokens: Mix, mixed: Mix) -> None:
    sources = [make_tokens([40] * 20, 57), make_tokens([40] * 20, 58, words=62)]
    with pytest.raises(InputError, match="source 'b' has a different tokenizer than source 'a'"):
        mixed(sources, weights=[1, 1], labels=["a", "b"])


def test_a_wrong_number_of_weights_is_refused(three: list[Artifact], mixed: Mix) -> None:
    with pytest.raises(ConfigError, match="weights: 2 values for 3 sources"):
        mixed(three, weights=[1, 1])
    with pytest.raises(ConfigError, match="max_epochs: 2 values for 3 sources"):
        mixed(three, weights=[1, 1, 1], max_epochs=[1, 2])


def test_training_on_a_mixture_continues_with_the_next_one(session: Session, three: list[Artifact], mixed: Mix) -> None:
    general = mixed(three, weights=[8, 1, 1])
    focused = mixed(three, weights=[3, 5, 2])
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
