"""Hashes of all windows of a text, and selection of fingerprints among them; vectorised, in blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.character_kinds import Codes, codes_of
from longcat.stages.data.text.hashed_words import powers_and_inverses

BLOCK_CHARACTERS = 1 << 18
_BASE = 0xD6E8FEB86659FD93  # odd, so that it has an inverse modulo 2^64
_MIX = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.uint64(0xFFFFFFFFFFFFFFFF)

Hashes = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Block:
    """Characters from position `start` on; `room` [n]: characters from each to the end of its document or the block."""

    start: int
    codes: Codes
    room: Places

    def whole(self, size: int) -> Flags:
        """Whether each window of `size` characters is in one document, [n - size + 1]."""
        return self.room[: max(0, len(self.codes) - size + 1)] >= size


def blocks(texts: Iterable[str], size: int) -> Iterator[Block]:
    """All texts, one position per character; every window of `size` characters of a text is whole in some block."""
    pending: list[str] = []
    start = position = 0
    for text in texts:
        if position + len(text) - start > BLOCK_CHARACTERS:
            yield from _joined(pending, start)
            pending, start = [], position
        if len(text) > BLOCK_CHARACTERS:
            codes = codes_of(text)
            for at in range(0, len(text) - size + 1, BLOCK_CHARACTERS - size + 1):
                yield _block(codes[at : at + BLOCK_CHARACTERS], position + at)
            start = position + len(text)
        else:
            pending.append(text)
        position += len(text)
    yield from _joined(pending, start)


def _joined(texts: list[str], start: int) -> Iterator[Block]:
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    if lengths.sum():
        yield Block(start, codes_of("".join(texts)), np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum()))


def _block(codes: Codes, start: int) -> Block:
    return Block(start, codes, len(codes) - np.arange(len(codes)))


def window_hashes(codes: Codes, size: int) -> Hashes:
    """64-bit hash of every window of `size` characters, [n - size + 1]: a polynomial modulo 2^64, mixed."""
    count = max(0, len(codes) - size + 1)
    powers, inverses = powers_and_inverses(_BASE, BLOCK_CHARACTERS)
    values = codes.astype(np.uint64) + np.uint64(1)
    values *= _MIX  # neighbouring code points differ in all bits
    values ^= values >> np.uint64(29)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.multiply(values, powers[: len(codes)], out=sums[1:])
    np.cumsum(sums, out=sums)
    hashes = (sums[size:] - sums[:count]) * inverses[:count]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


def winnow(hashes: Hashes, whole: Flags, width: int) -> Places:
    """Positions with the smallest hash of any `width` neighbouring ones, ascending; only where `whole` is true."""
    if len(hashes) < width:
        return np.zeros(0, dtype=np.int64)
    known = np.where(whole, hashes, _NONE)
    smallest = _sliding(known, width, np.minimum, _NONE)
    edge = np.zeros(width - 1, dtype=np.uint64)
    greatest = _sliding(np.concatenate((edge, smallest, edge)), width, np.maximum, np.uint64(0))
    return np.flatnonzero((greatest == known) & whole)


def _sliding(values: Hashes, width: int, function: np.ufunc, neutral: np.uint64) -> Hashes:
    """Minimum or maximum of every `width` neighbours, [n - width + 1] (van Herk, Gil and Werman)."""
    count = len(values) - width + 1
    padded = np.concatenate((values, np.full(-len(values) % width, neutral, dtype=np.uint64))).reshape(-1, width)
    before = function.accumulate(padded, axis=1).ravel()
    after = np.ascontiguousarray(function.accumulate(padded[:, ::-1], axis=1)[:, ::-1]).ravel()
    found: Hashes = function(after[:count], before[width - 1 : width - 1 + count])
    return found
