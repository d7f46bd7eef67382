"""Best-fit packing: assignment of document pieces to sequences, as an index of the token file.

After Ding et al., "Fewer Truncations Improve Language Modeling" (ICML 2024): a document longer than a sequence is split
into pieces of that length and a remainder; every piece, longest first, is assigned to the sequence with the least
sufficient room. Only documents longer than a sequence are split, and no token is moved or copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from longcat.pipeline.errors import IntegrityError
from longcat.pipeline.faults import raise_fault
from longcat.pipeline.files import atomic_path
from longcat.stages.formats.best_fit import Integers, fill

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
    bins = fill(lengths, length)
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
