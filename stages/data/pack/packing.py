"""Best-fit packing: assignment of document pieces to sequences, as an index of the token file.

After Ding et al., "Fewer Truncations Improve Language Modeling" (ICML 2024): a document longer than a sequence is split
into pieces of that length and a remainder; every piece, longest first, is assigned to the sequence with the least
sufficient room. Only documents longer than a sequence are split, and no token is moved or copied.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.faults import raise_fault
from longcat.pipeline.files import atomic_path

Integers = npt.NDArray[np.int64]

SEQUENCE, START, LENGTH = range(3)


def index_name(prefix: str, length: int) -> str:
    """File name of the index of `prefix` for sequences of `length` tokens: `train.pack-2048.npy`."""
    return f"{prefix}.pack-{length}.npy"


def pack(document_offsets: Integers, length: int) -> Integers:
    """Best-fit packing index, int64 [n pieces, 3]: sequence, first token, number of tokens.

    `document_offsets` [n documents + 1] is the start of each document in the token file. Sequences are numbered from 0
    by the file position of their first piece, pieces of one sequence are contiguous in file order; together the pieces
    cover every token once.
    """
    starts, lengths = _cut(document_offsets, length)
    bins = _fill(lengths, length)
    by_bin = np.lexsort((starts, bins))
    firsts = by_bin[np.flatnonzero(np.diff(bins[by_bin], prepend=-1))]
    rank = np.empty(len(firsts), dtype=np.int64)
    rank[np.argsort(starts[firsts], kind="stable")] = np.arange(len(firsts))
    sequences = rank[bins]
    order = np.lexsort((starts, sequences))
    return np.stack((sequences, starts, lengths), axis=1)[order]


def _cut(offsets: Integers, length: int) -> tuple[Integers, Integers]:
    """First token and number of tokens of every piece, in file order."""
    sizes = np.diff(offsets)
    pieces = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    starts = offsets[:-1][document] + number * length
    return starts, np.minimum(length, offsets[1:][document] - starts)


def _fill(lengths: Integers, capacity: int) -> Integers:
    """Bin of every piece, by best fit over decreasing lengths; pieces of equal length are placed together."""
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


def write_pack(path: Path, document_offsets: Integers, length: int) -> dict[str, Any]:
    """Write the index to `path`; returns sequences, pieces, split documents, and fraction of padding."""
    index = pack(document_offsets, length)
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.save(stream, index)
    sequences = int(index[-1, SEQUENCE]) + 1 if len(index) else 0
    tokens = int(document_offsets[-1])
    return {
        "sequences": sequences,
        "pieces": len(index),
        "cut_documents": int((np.diff(document_offsets) > length).sum()),
        "waste": round(1 - tokens / (sequences * length), 6) if sequences else 0.0,
    }


class PackIndex:
    """An index of best-fit packing, memory-mapped."""

    def __init__(self, path: Path) -> None:
        """Open `path`.

        Raises:
            IntegrityError: it is missing or not a packing index.
        """
        try:
            self._rows: Integers = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise_fault(error, path)
            raise IntegrityError(f"not a packing index: {error}", where=str(path)) from None
        if self._rows.dtype != np.int64 or self._rows.ndim != 2 or self._rows.shape[1] != 3:
            raise IntegrityError("not a packing index: expected int64 [n, 3]", where=str(path))

    def __len__(self) -> int:
        """Number of sequences."""
        return int(self._rows[-1, SEQUENCE]) + 1 if len(self._rows) else 0

    def pieces(self, number: int) -> list[tuple[int, int]]:
        """First token and number of tokens of every piece of sequence `number`, in order."""
        first, last = np.searchsorted(self._rows[:, SEQUENCE], [number, number + 1])
        return [(int(row[START]), int(row[LENGTH])) for row in self._rows[first:last]]
