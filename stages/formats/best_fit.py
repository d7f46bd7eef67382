"""Best-fit packing: sequences in which no document is cut that fits into one.

After Ding et al., "Fewer Truncations Improve Language Modeling" (ICML 2024): every piece, longest first, is put into
the bin with the least sufficient room. Time and memory are bounded by the number of different lengths, since pieces of
equal length are placed together, and by about 100 bytes a piece.
"""

from __future__ import annotations

from bisect import bisect_left, insort

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def fill(lengths: Integers, capacity: int) -> Integers:
    """Bin of every piece, int64 [n], by best fit over decreasing lengths, in bins of `capacity`.

    Pieces of one length are placed in their order. The number of bins depends only on the lengths, not on their order.
    No length may be below 1 or above the capacity.
    """
    bins = np.empty(len(lengths), dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    values, counts = np.unique(lengths, return_counts=True)
    rooms = _Rooms(capacity)
    end = 0
    for size, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        at, end = end, end + count
        while at < end:
            # The bin that took a piece has the least sufficient room for the next one, until it is full.
            room = rooms.least(size)
            each = room // size
            taken = rooms.take(room, -(-(end - at) // each))
            placed = min(end - at, len(taken) * each)
            bins[order[at : at + placed]] = np.repeat(taken, each)[:placed]
            whole, rest = divmod(placed, each)
            rooms.put(room - each * size, taken[:whole])
            if rest:
                rooms.put(room - rest * size, taken[whole:])
            at += placed
    return bins


class _Rooms:
    """Bins by remaining tokens; new ones are created if no other has room."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._sizes: list[int] = []  # distinct values of used bins, ascending
        self._bins: dict[int, list[Integers]] = {}
        self._next = 0

    def least(self, size: int) -> int:
        """Smallest room of at least `size`."""
        position = bisect_left(self._sizes, size)
        return self._sizes[position] if position < len(self._sizes) else self._capacity

    def take(self, room: int, count: int) -> Integers:
        """Up to `count` bins with this room; exactly `count` if new."""
        if room not in self._bins:
            self._next += count
            return np.arange(self._next - count, self._next)
        parts = self._bins[room]
        part = parts.pop()
        if len(part) > count:
            parts.append(part[count:])
        if not parts:
            del self._bins[room]
            self._sizes.pop(bisect_left(self._sizes, room))
        return part[:count]

    def put(self, room: int, bins: Integers) -> None:
        if not room or not len(bins):
            return
        if room not in self._bins:
            self._bins[room] = []
            insort(self._sizes, room)
        self._bins[room].append(bins)
