"""Vectors, clusters and their diversity."""

from __future__ import annotations

import numpy as np
import pytest

from longcat.stages.data.score.cluster import diversities, find_centres, nearest, separation
from longcat.stages.data.score.embed import BUCKETS, MIN_DOCUMENTS, SCALE, bag_of_words, embed, rarity

RANDOM = np.random.Generator(np.random.PCG64(11))


def vectors(count: int, dimensions: int = 256) -> np.ndarray:
    drawn = RANDOM.normal(size=(count, dimensions))
    return np.rint(drawn * (SCALE / np.linalg.norm(drawn, axis=1, keepdims=True))).astype(np.int16)


@pytest.mark.parametrize("dimensions", [8, 256, 4096])
def test_distances_are_exact(dimensions: int) -> None:
    """Computed in 64-bit integers, so clusters do not depend on summation order or the number of threads."""
    some, centres = vectors(300, dimensions), vectors(20, dimensions)
    wide, others = some.astype(np.int64), centres.astype(np.int64)
    exact = ((wide[:, None, :] - others[None, :, :]) ** 2).sum(axis=2)
    labels, squared = nearest(some, centres)
    assert np.array_equal(labels, exact.argmin(axis=1))
    assert np.array_equal(squared, exact.min(axis=1))


def test_separate_clusters_are_found() -> None:
    middles = vectors(5)
    noisy = np.repeat(middles, 40, axis=0) + RANDOM.integers(-20, 21, size=(200, 256), dtype=np.int16)
    labels, _ = nearest(noisy, find_centres(noisy, 5, 10, seed=3))
    assert [len(set(part.tolist())) for part in np.split(labels, 5)] == [1] * 5
    assert len(set(labels.tolist())) == 5


def test_equal_vectors_make_one_cluster() -> None:
    assert len(find_centres(np.repeat(vectors(1), 50, axis=0), 10, 10, seed=0)) == 1


def test_wide_and_distant_clusters_are_more_diverse() -> None:
    centres = np.zeros((4, 8), dtype=np.int16)
    centres[:, 0] = (0, 10, 20, 2000)
    members = np.full(4, 100)
    loose = diversities(np.array([0.1, 0.2, 0.4, 0.1]), members, centres)
    assert loose[0] < loose[1] < loose[2]
    assert loose[3] > loose[1]
    assert (separation(centres)[3] > separation(centres)[:3]).all()


def test_a_cluster_of_one_is_not_considered_dense() -> None:
    """It has no spread, and a hundred documents in a dense cluster have little."""
    centres = np.eye(3, 8, dtype=np.int16) * SCALE
    single, tight, loose = diversities(np.array([0.0, 0.1, 0.9]), np.array([1, 100, 100]), centres)
    assert tight < single
    assert loose == 1


def test_rare_words_have_higher_weights_and_the_rarest_zero() -> None:
    found = np.repeat([1, 2, 3], [MIN_DOCUMENTS - 1, MIN_DOCUMENTS, 50])
    weights = rarity(found, 100)
    assert weights.shape == (BUCKETS,)
    assert weights[1] == weights[0] == 0
    assert weights[2] > weights[3] > 0


def test_a_vector_does_not_depend_on_the_other_documents() -> None:
    bags = [bag_of_words(text) for text in ("one river", "", "two rivers meet", "one river")]
    weights = np.ones(BUCKETS)
    together = embed(bags, weights, 64)
    assert np.array_equal(together[0], together[3])
    assert not together[1].any()
    for row, bag in enumerate(bags):
        assert np.array_equal(together[row], embed([bag], weights, 64)[0])
    assert np.linalg.norm(together[0].astype(float)) == pytest.approx(SCALE, rel=0.01)
