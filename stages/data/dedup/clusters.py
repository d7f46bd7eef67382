"""Clusters of documents: vectorised union-find over pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Clusters:
    """Union-find over n documents; the root of a cluster is its smallest index. Uses 8 bytes per document."""

    def __init__(self, documents: int) -> None:
        self._parent = np.arange(documents, dtype=np.int64)

    def join(self, pairs: Indices) -> None:
        """Merge the clusters of each pair, [n, 2]."""
        first, second = pairs[:, 0], pairs[:, 1]
        while len(first):
            first, second = self._roots_of(first), self._roots_of(second)
            apart = first != second
            first, second = first[apart], second[apart]
            # A root is attached to a smaller one, so there are no cycles; conflicting pairs are merged in the next
            # round.
            np.minimum.at(self._parent, np.maximum(first, second), np.minimum(first, second))

    def roots(self) -> Indices:
        """Root of every document, [n]."""
        while True:
            above = self._parent[self._parent]
            if np.array_equal(above, self._parent):
                return above
            self._parent = above

    def _roots_of(self, documents: Indices) -> Indices:
        roots = self._parent[documents]
        while True:
            above = self._parent[roots]
            if np.array_equal(above, roots):
                break
            roots = above
        self._parent[documents] = roots
        return roots
