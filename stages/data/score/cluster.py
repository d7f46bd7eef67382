"""Clusters of documents by k-means, and their diversity: SampleMix's measure (Xi et al. 2025, section 3.2).

N documents, D dimensions, C centres. All vectors are from `embed`: distances are exact.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from longcat.stages.data.score.embed import SCALE, Floats, Integers, Vectors

ROWS_A_STEP = 4096
# A cluster's spread is smoothed with this many members of mean spread, since a single member has none.
PRIOR_MEMBERS = 10
TAIL = 0.05


def nearest(vectors_ND: Vectors, centres_CD: Vectors) -> tuple[Integers, Integers]:
    """Nearest centre of every vector, the first on ties, and squared distance; both [N]."""
    centres = centres_CD.astype(np.float32)
    lengths = _squares(centres_CD)
    labels = np.empty(len(vectors_ND), dtype=np.int64)
    distances = np.empty(len(vectors_ND), dtype=np.int64)
    for at in range(0, len(vectors_ND), ROWS_A_STEP):
        rows = vectors_ND[at : at + ROWS_A_STEP]
        products = (rows.astype(np.float32) @ centres.T).astype(np.int64)
        squared = _squares(rows)[:, None] + lengths - 2 * products
        labels[at : at + len(rows)] = squared.argmin(axis=1)
        distances[at : at + len(rows)] = squared.min(axis=1)
    return labels, distances


def find_centres(vectors_ND: Vectors, count: int, iterations: int, seed: int) -> Vectors:
    """At most `count` centres, [C, D], by k-means with k-means++; fewer if there are fewer distinct vectors."""
    centres = _first_centres(vectors_ND, count, np.random.Generator(np.random.PCG64(seed)))
    labels, _ = nearest(vectors_ND, centres)
    for _ in range(iterations):
        centres = _means(vectors_ND, labels, centres)
        before, (labels, _) = labels, nearest(vectors_ND, centres)
        if np.array_equal(before, labels):
            break
    return centres


def diversities(compactness: Floats, members: Integers, centres_CD: Vectors) -> Floats:
    """Diversity of each cluster, 0 to 1, [C]: spread of its members times distance to other clusters.

    `compactness` [C] is the mean distance of members to the centre, `members` [C] their number. The product is scaled
    so that 5 % of the documents have 0 and 5 % have 1, so that outliers do not compress the others; 0.5 if all are
    equal.
    """
    mean = float((compactness * members).sum() / max(1, members.sum()))
    spread = (compactness * members + mean * PRIOR_MEMBERS) / (members + PRIOR_MEMBERS)
    product = spread * separation(centres_CD)
    order = np.argsort(product, kind="stable")
    share = np.cumsum(members[order]) / max(1, members.sum())
    lowest, highest = product[order][np.searchsorted(share, (TAIL, 1 - TAIL)).clip(max=len(order) - 1)]
    if not highest > lowest:
        return np.full(len(product), 0.5)
    return np.clip((product - lowest) / (highest - lowest), 0, 1)


def separation(centres_CD: Vectors) -> Floats:
    """Mean distance of each centre to the others, [C]; 1 for a single one."""
    if len(centres_CD) == 1:
        return np.ones(1)
    lengths = _squares(centres_CD)
    centres = centres_CD.astype(np.float32)
    found = np.empty(len(centres_CD))
    for row, centre in enumerate(centres):
        squared = lengths[row] + lengths - 2 * (centres @ centre).astype(np.int64)
        found[row] = np.sqrt(squared).sum() / (len(centres) - 1) / SCALE
    return found


def _squares(vectors: Vectors) -> Integers:
    wide = vectors.astype(np.int64)
    squares: Integers = (wide * wide).sum(axis=1)
    return squares


def _first_centres(vectors: Vectors, count: int, random: np.random.Generator) -> Vectors:
    """k-means++ (Arthur and Vassilvitskii 2007): centres are drawn in proportion to squared distance."""
    chosen = [int(random.integers(len(vectors)))]
    distances = nearest(vectors, vectors[chosen])[1]
    while len(chosen) < count and distances.any():
        ends = np.cumsum(distances)
        chosen.append(int(np.searchsorted(ends, random.integers(ends[-1]), side="right")))
        distances = np.minimum(distances, nearest(vectors, vectors[chosen[-1:]])[1])
    return vectors[chosen]


def _means(vectors: Vectors, labels: Integers, centres: Vectors) -> Vectors:
    """Rounded mean of every cluster; an empty cluster keeps its centre."""
    order = np.argsort(labels, kind="stable")
    filled, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(vectors[order].astype(np.int64), starts, axis=0)
    means: npt.NDArray[np.int16] = centres.copy()
    means[filled] = np.rint(sums / counts[:, None]).astype(np.int16)
    return means
