"""How often each document is taken by its quality and its diversity: SampleMix (Xi et al. 2025, arXiv 2503.01506).

A document's worth is p = alpha * diversity + (1 - alpha) * quality, its weight exp(p / temperature). It is taken c
times on average, c in proportion to its weight, so that all together have the tokens asked for; the whole part of c
for certain, the rest by chance. Unlike the paper's, c is bounded by how often a source may be gone through, and the
proportion takes the documents' lengths into account, so that the budget is met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longcat.stages.data.mixture.plan import Draw, Floats, Numbers, Pool
from longcat.stages.data.score.files import Scores

# Apart from the streams of `plan.draw`, which end in the number of a round.
_STREAM = 1 << 32
# Sums of shares are a hair off whole numbers.
_TOLERANCE = 1e-9


def weights_of(scores: Scores, alpha: float, temperature: float) -> Floats:
    """Weight of every document, [n], from its quality and diversity, [n, 2]; above zero."""
    quality, diversity = scores.astype(np.float64).T
    return np.exp((alpha * diversity + (1 - alpha) * quality - 1) / temperature)


def expected_counts(weights: Floats, lengths: Numbers, room: Floats, target: float) -> Floats:
    """How often each document is taken on average, [n]: min(scale * weight, room), of `target` tokens in all.

    `room` is how often each may still be taken. Where all of it holds fewer tokens, that is what is returned.
    """
    order = np.argsort(room / weights, kind="stable")
    most, wide = (room * lengths)[order], (weights * lengths)[order]
    full_before = np.cumsum(most) - most
    open_from = np.cumsum(wide[::-1])[::-1]
    scales = (target - full_before) / open_from
    # The first document that its room does not bound sets the scale; those before it are taken as often as they may be.
    unbounded = np.flatnonzero(scales * weights[order] <= room[order])
    if not len(unbounded):
        return room
    return np.minimum(scales[unbounded[0]] * weights, room)


def settle(counts: Floats, lengths: Numbers, random: np.random.Generator) -> Numbers:
    """Whole numbers whose means are `counts`: each is rounded down or up by chance, their sum by less than one.

    Systematic sampling from short documents to long ones, those of one length in a random order: the chance of
    rounding up is the fraction, as in the paper, but neither the documents nor their tokens wander from what is due.
    """
    whole = np.floor(counts + _TOLERANCE)
    fraction = np.maximum(0, counts - whole)
    order = np.lexsort((random.permutation(len(counts)), lengths))
    ends = np.floor(np.cumsum(fraction[order]) + random.random())
    found = whole.astype(np.int64)
    found[order] += np.diff(ends, prepend=0).astype(np.int64)
    return found


def sample(
    pools: Sequence[Pool], chosen: Sequence[Numbers], targets: Sequence[float], seed: int, stage: int
) -> list[Draw]:
    """Documents of every source by their weights, in a random order; `targets` in tokens, a number a source."""
    counts = [
        expected_counts(_weights(pool)[own], pool.lengths[own], room(pool, own), target)
        for pool, own, target in zip(pools, chosen, targets, strict=True)
    ]
    return _draws(pools, chosen, counts, seed, stage)


def sample_together(
    pools: Sequence[Pool], chosen: Sequence[Numbers], target: float, seed: int, stage: int
) -> list[Draw]:
    """As `sample`, with one target for all sources: the shares are what the weights make of them."""
    weights = np.concatenate([_weights(pool)[own] for pool, own in zip(pools, chosen, strict=True)])
    lengths = np.concatenate([pool.lengths[own] for pool, own in zip(pools, chosen, strict=True)])
    rooms = np.concatenate([room(pool, own) for pool, own in zip(pools, chosen, strict=True)])
    counts = expected_counts(weights, lengths, rooms, target)
    parts = np.split(counts, np.cumsum([len(own) for own in chosen])[:-1])
    return _draws(pools, chosen, parts, seed, stage)


def room(pool: Pool, chosen: Numbers) -> Floats:
    """How often each of some documents may still be taken."""
    return np.maximum(0.0, pool.max_epochs - pool.used[chosen])


def _weights(pool: Pool) -> Floats:
    if pool.weights is None:
        raise ValueError("the pool has no weights")
    return pool.weights


def _draws(
    pools: Sequence[Pool], chosen: Sequence[Numbers], counts: Sequence[Floats], seed: int, stage: int
) -> list[Draw]:
    draws = []
    for pool, own, expected in zip(pools, chosen, counts, strict=True):
        random = np.random.Generator(np.random.PCG64([seed, pool.number, stage, _STREAM]))
        draws.append(pool.take(random.permutation(np.repeat(own, settle(expected, pool.lengths[own], random)))))
    return draws
