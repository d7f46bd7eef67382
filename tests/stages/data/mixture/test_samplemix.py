"""Sampling by quality and diversity: frequency of each document, and its effect on a mixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError
from longcat.stages.data.mixture.samplemix import expected_counts, settle, weights_of
from longcat.stages.formats.scores import token_scores

Mix = Callable[..., Artifact]
Read = Callable[..., list[list[int]]]


def test_weights_follow_the_paper() -> None:
    scores = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.25]], dtype=np.float32)
    weights = weights_of(scores, 0.8, 0.2)
    worth = np.array([0.0, 0.2, 0.8, 0.8 * 0.25 + 0.2 * 0.5])
    assert weights / weights[0] == pytest.approx(np.exp(worth / 0.2))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-6, 1.0), st.integers(1, 10_000), st.floats(0, 8)), min_size=1, max_size=50),
    st.floats(0.01, 1.2),
)
def test_counts_meet_the_target_within_the_bounds(documents: list[tuple[float, int, float]], fullness: float) -> None:
    weights, lengths, room = (np.array(column) for column in zip(*documents, strict=True))
    most = float((room * lengths).sum())
    counts = expected_counts(weights, lengths, room, fullness * most)
    assert (counts >= 0).all()
    assert (counts <= room).all()
    assert (counts * lengths).sum() == pytest.approx(min(1, fullness) * most, rel=1e-6)
    open_ones = counts < room * (1 - 1e-9)
    if open_ones.sum() > 1:
        scales = counts[open_ones] / weights[open_ones]
        assert scales == pytest.approx(np.full(len(scales), scales[0]), rel=1e-6)


def test_random_rounding_has_the_right_mean_and_a_constant_sum() -> None:
    counts = np.array([0.3, 1.7, 2.0, 0.0, 0.5, 0.25, 3.25])
    lengths = np.full(len(counts), 10)
    drawn = np.stack([settle(counts, lengths, np.random.Generator(np.random.PCG64(seed))) for seed in range(4000)])
    assert ((drawn == np.floor(counts)) | (drawn == np.ceil(counts))).all()
    assert drawn.mean(axis=0) == pytest.approx(counts, abs=0.03)
    assert set(drawn.sum(axis=1)) == {8}


@pytest.fixture
def scored(make_tokens: Mix) -> list[Artifact]:
    """Two sources of 100 documents; in each half the documents are good, and the second source is more diverse."""
    return [
        make_tokens([40] * 100, 57, scores=[(0.9 if number < 50 else 0.1, 0.2) for number in range(100)]),
        make_tokens([40] * 100, 58, scores=[(0.9 if number < 50 else 0.1, 0.8) for number in range(100)]),
    ]


def count_by_number(documents: list[list[int]], first: int) -> Counter[int]:
    return Counter((document[-3] - 3) * 50 + document[-2] - 3 for document in documents if document[0] == first)


def test_better_documents_are_sampled_more_often_within_a_share(
    scored: list[Artifact], mixed: Mix, documents: Read
) -> None:
    artifact = mixed(scored, weights=[1, 1], sampling="samplemix", alpha=0.5, token_budget=8000)
    made = documents(artifact)
    assert sum(map(len, made)) == pytest.approx(8000, abs=40)
    for first in (57, 58):
        times = count_by_number(made, first)
        good, bad = (sum(times[number] for number in half) for half in (range(50), range(50, 100)))
        assert good + bad == 100
        # exp(0.5 * 0.8 / 0.2) = 7.39 times as often
        assert good == pytest.approx(100 * 7.39 / 8.39, abs=8)
    row = artifact.manifest.metrics["stages"][0]
    assert (row["quality"], row["diversity"]) == (pytest.approx(0.9 * 0.88 + 0.1 * 0.12, abs=0.07), 0.2)


def test_without_weights_the_scores_determine_the_shares(scored: list[Artifact], mixed: Mix) -> None:
    artifact = mixed(scored, sampling="samplemix", token_budget=4000)
    rows = artifact.manifest.metrics["sources"]
    ratio = np.exp(0.8 * 0.6 / 0.2)
    assert rows[1]["share"] == pytest.approx(ratio / (1 + ratio), abs=0.02)
    assert "share_wanted" not in rows[0]


def test_no_document_is_sampled_more_often_than_allowed(scored: list[Artifact], mixed: Mix, documents: Read) -> None:
    halves = [{"name": name, "share": 1} for name in ("a", "b")]
    artifact = mixed(scored, sampling="samplemix", stages=halves, token_budget=14_000, max_epochs=[2], temperature=0.05)
    made = documents(artifact)
    for first in (57, 58):
        assert max(count_by_number(made, first).values()) == 2
    with pytest.raises(InputError, match="stage 'b' takes 8200 tokens; max_epochs leaves 7"):
        mixed(scored, sampling="samplemix", stages=halves, token_budget=16_400, max_epochs=[2])


def test_the_draw_depends_on_the_seed(scored: list[Artifact], mixed: Mix, documents: Read) -> None:
    config = {"sampling": "samplemix", "token_budget": 4000}
    assert documents(mixed(scored, **config)) != documents(mixed(scored, **config, seed=1))


def test_missing_and_damaged_scores_are_named(three: list[Artifact], scored: list[Artifact], mixed: Mix) -> None:
    with pytest.raises(InputError, match=r"its documents have no scores .*data pack with --scores"):
        mixed(three, sampling="samplemix", token_budget=100)
    with pytest.raises(ConfigError, match="token_budget is missing"):
        mixed(scored, sampling="samplemix")
    with pytest.raises(IntegrityError, match="100 scores for 7 documents"):
        token_scores(scored[1], 7)
    (scored[1].path / "train.scores.parquet").write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(IntegrityError, match=r"train\.scores\.parquet: cannot be read"):
        token_scores(scored[1], 100)
