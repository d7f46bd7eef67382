"""Which documents are the same: exact groups by digest, near ones by LSH bands, joined by union-find.

Every choice goes by `priority`, an order of the documents that depends on their content alone, so that neither the
number of workers nor the order of the shards moves the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.data.dedup.signatures import EMPTY_SLOT

# A bucket is compared with at most so many of its own documents, which bounds the work for a band that thousands
# of unlike documents share; what is alike beyond that meets in other bands.
MAX_ANCHORS = 64
PAIRS_A_STEP = 1 << 16

Indices = npt.NDArray[np.int64]
Signatures = npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Records:
    """What is known of n documents: ids, lengths [n], digests [n, 2], signatures [n, num_perm] (may be mapped)."""

    ids: list[str]
    lengths: Indices
    digests: npt.NDArray[np.uint64]
    signatures: Signatures


def priorities(records: Records) -> Indices:
    """Rank of every document, 0 first: longest text, then smallest id, then digest. The first of a cluster stays."""

    def key(index: int) -> tuple[int, str, int, int, int]:
        first, second = records.digests[index].tolist()
        return -int(records.lengths[index]), records.ids[index], first, second, index

    ranks = np.empty(len(records.ids), dtype=np.int64)
    ranks[sorted(range(len(records.ids)), key=key)] = np.arange(len(records.ids))
    return ranks


class Clusters:
    """Union-find over documents; the root of a cluster is its document of the best priority."""

    def __init__(self, priority: Indices) -> None:
        self.priority = priority
        self._parent = np.arange(len(priority), dtype=np.int64)

    def join(self, first: int, second: int) -> None:
        first, second = self._root(first), self._root(second)
        if first == second:
            return
        if self.priority[second] < self.priority[first]:
            first, second = second, first
        self._parent[second] = first

    def roots(self) -> Indices:
        """The root of every document, [n]."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return self._parent
            self._parent = above

    def _root(self, index: int) -> int:
        parent = self._parent
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = int(parent[index])
        return index


def join_exact(clusters: Clusters, digests: npt.NDArray[np.uint64]) -> Indices:
    """Join the documents of equal digest; returns the first of every group."""
    order = np.lexsort((clusters.priority, digests[:, 1], digests[:, 0]))
    starts = _starts(digests[order])
    for anchor, member in _pairs(order, starts):
        clusters.join(anchor, member)
    return order[starts]


def candidates(records: Records, chosen: Indices) -> Indices:
    """Those of `chosen` that have a signature to compare."""
    steps = range(0, len(chosen), PAIRS_A_STEP)
    filled = [(records.signatures[chosen[at : at + PAIRS_A_STEP]] != EMPTY_SLOT).any(axis=1) for at in steps]
    return chosen[np.concatenate(filled)] if filled else chosen


def join_band(
    clusters: Clusters, signatures: Signatures, documents: Indices, columns: slice, min_similarity: float | None
) -> None:
    """Join those of `documents` that agree in one band of the signatures and are similar enough.

    Within a bucket every document is compared with the first one; those too unlike are compared with the first of
    themselves, and so on.
    """
    keys = _band_keys(signatures, documents, columns)
    order = np.lexsort((clusters.priority[documents], keys))
    documents, keys = documents[order], keys[order]
    for _ in range(MAX_ANCHORS):
        starts = _starts(keys[:, None])
        group = np.cumsum(starts) - 1
        anchors, members = documents[starts][group[~starts]], documents[~starts]
        if not len(members):
            return
        alike = np.ones(len(members), dtype=np.bool_)
        if min_similarity is not None:
            alike = similarity(signatures, anchors, members) >= min_similarity
        for anchor, member in zip(anchors[alike].tolist(), members[alike].tolist(), strict=True):
            clusters.join(anchor, member)
        documents, keys = members[~alike], keys[~starts][~alike]


def similarity(signatures: Signatures, first: Indices, second: Indices) -> npt.NDArray[np.float64]:
    """Jaccard similarity of pairs of documents, estimated as the share of equal hashes, shape [n pairs]."""
    found = np.empty(len(first), dtype=np.float64)
    for at in range(0, len(first), PAIRS_A_STEP):
        step = slice(at, at + PAIRS_A_STEP)
        found[step] = (signatures[first[step]] == signatures[second[step]]).mean(axis=1)
    return found


def _band_keys(signatures: Signatures, documents: Indices, columns: slice) -> npt.NDArray[np.uint64]:
    """One 64-bit number for the hashes of a band of every document."""
    keys = np.zeros(len(documents), dtype=np.uint64)
    for column in range(columns.start, columns.stop):
        keys = (keys ^ signatures[documents, column]) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(32)
    return keys


def _starts(ordered: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Where a run of equal rows begins, [n] of bool."""
    starts = np.ones(len(ordered), dtype=np.bool_)
    starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return starts


def _pairs(ordered: Indices, starts: npt.NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    group = np.cumsum(starts) - 1
    anchors = ordered[starts][group[~starts]]
    return zip(anchors.tolist(), ordered[~starts].tolist(), strict=True)
