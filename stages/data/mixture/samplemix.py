"""Sampling counts of documents by quality and diversity: SampleMix (Xi et al. 2025, arXiv 2503.01506).

A document's value is p = alpha * diversity + (1 - alpha) * quality, its weight exp(p / temperature). It is taken c
times on average, with c proportional to its weight and a total of the requested tokens; the integer part of c is
deterministic, the fraction random. Unlike in the paper, c is limited by the maximum epochs of a source, and document
lengths are taken into account, so that the budget is met.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from longcat.stages.data.mixture.document_order import Draw, Floats, Numbers, Pool
from longcat.stages.formats.scores import Scores

# Distinct from the streams of `plan.draw`, which end in the round number.
_STREAM = 1 << 32
# Tolerance for rounding errors of summed shares.
_TOLERANCE = 1e-9


def weights_of(scores: Scores, alpha: float, temperature: float) -> Floats:
    """Positive weight of every document, [n], from quality and diversity, [n, 2]."""
    quality, diversity = scores.astype(np.float64).T
    return np.exp((alpha * diversity + (1 - alpha) * quality - 1) / temperature)


def expected_counts(weights: Floats, lengths: Numbers, room: Floats, target: float) -> Floats:
    """Mean sampling count of each document, [n]: min(scale * weight, room), with `target` tokens in total.

    `room` is the remaining allowed count, returned if its tokens are fewer than the target.
    """
    order = np.argsort(room / weights, kind="stable")
    most, wide = (room * lengths)[order], (weights * lengths)[order]
    full_before = np.cumsum(most) - most
    open_from = np.cumsum(wide[::-1])[::-1]
    scales = (target - full_before) / open_from
    # The first document not limited by its room sets the scale; earlier ones are taken the maximum number of times.
    unbounded = np.flatnonzero(scales * weights[order] <= room[order])
    if not len(unbounded):
        return room
    return np.minimum(scales[unbounded[0]] * weights, room)


def settle(counts: Floats, lengths: Numbers, random: np.random.Generator) -> Numbers:
    """Random integers with means `counts`: each is rounded down or up, their sum changes by less than one.

    Systematic sampling from short documents to long ones, those of one length in a random order: the probability of
    rounding up is the fraction, as in the paper, but with low variance of documents and tokens.
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
    """Documents of every source by weight, in random order; `targets` in tokens, one per source."""
    counts = [
        expected_counts(_weights(pool)[own], pool.lengths[own], room(pool, own), target)
        for pool, own, target in zip(pools, chosen, targets, strict=True)
    ]
    return _draws(pools, chosen, counts, seed, stage)


def sample_together(
    pools: Sequence[Pool], chosen: Sequence[Numbers], target: float, seed: int, stage: int
) -> list[Draw]:
    """Like `sample`, with one target for all sources: shares follow from the weights."""
    weights = np.concatenate([_weights(pool)[own] for pool, own in zip(pools, chosen, strict=True)])
    lengths = np.concatenate([pool.lengths[own] for pool, own in zip(pools, chosen, strict=True)])
    rooms = np.concatenate([room(pool, own) for pool, own in zip(pools, chosen, strict=True)])
    counts = expected_counts(weights, lengths, rooms, target)
    parts = np.split(counts, np.cumsum([len(own) for own in chosen])[:-1])
    return _draws(pools, chosen, parts, seed, stage)


def room(pool: Pool, chosen: Numbers) -> Floats:
    """Remaining allowed count of some documents."""
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
