"""Documents by length, in buckets between powers of two."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Unit = Literal["tokens", "bytes"]


class LengthCounts:
    """Number of documents and their total length by bucket; lengths may be added in parts.

    Bucket k holds the lengths from 2^(k - 1) to 2^k - 1, bucket 0 those of 0.
    """

    def __init__(self) -> None:
        self._documents = np.zeros(64, dtype=np.int64)
        self._sizes = np.zeros(64, dtype=np.int64)

    def add(self, lengths: npt.ArrayLike) -> None:
        """Count documents of these lengths, int [n]."""
        own = np.asarray(lengths, dtype=np.int64)
        # The exponent of frexp is exact up to 2^53.
        buckets = np.frexp(own.astype(np.float64))[1]
        self._documents += np.bincount(buckets, minlength=64)
        np.add.at(self._sizes, buckets, own)

    def rows(self, unit: Unit = "tokens") -> list[dict[str, Any]]:
        """One row per bucket, from the shortest document to the longest: its range, documents, `unit` and their share.

        Empty when nothing was counted.
        """
        used = np.flatnonzero(self._documents)
        total = max(1, int(self._sizes.sum()))
        return [
            {
                "from": 1 << bucket - 1 if bucket else 0,
                "to": (1 << bucket) - 1,
                "documents": int(self._documents[bucket]),
                unit: int(self._sizes[bucket]),
                "share": round(int(self._sizes[bucket]) / total, 6),
            }
            for bucket in (range(used[0], used[-1] + 1) if len(used) else ())
        ]


def length_rows(lengths: npt.ArrayLike, unit: Unit = "tokens") -> list[dict[str, Any]]:
    """`LengthCounts.rows` of documents of these lengths."""
    counts = LengthCounts()
    counts.add(lengths)
    return counts.rows(unit)
