"""Characters in repeated n-grams of words, all sizes in one pass over the words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def repeated_characters(
    word_ids: Ids, lengths: Ids, is_parted: Flags, top_sizes: Sequence[int], duplicate_sizes: Sequence[int]
) -> dict[str, int]:
    """`top_N_gram`: characters of the most frequent n-gram; `duplicate_N_grams`: characters in n-grams that occurred
    before.

    `word_ids` [n words] numbers equal words equally, `lengths` [n words] are their characters, and `is_parted`
    [n words] tells the words with a blank before them, which counts in `top_N_gram`. Sizes ascend, those of
    `duplicate_sizes` after those of `top_sizes`.
    """
    before = np.concatenate(([0], np.cumsum(lengths)))
    blanks = np.concatenate(([0], np.cumsum(is_parted)))
    positions, grams = np.arange(len(word_ids)), word_ids
    found: dict[str, int] = {}
    for size in top_sizes:
        positions, grams, counts = _repeated(positions, grams, word_ids, size)
        found[f"top_{size}_gram"] = _top_gram(positions, counts, size, before, blanks)
    for size in duplicate_sizes:
        positions, grams, _ = _repeated(positions, grams, word_ids, size)
        found[f"duplicate_{size}_grams"] = _covered(positions, grams, size, before)
    return found


def _repeated(positions: Ids, grams: Ids, word_ids: Ids, size: int) -> tuple[Ids, Ids, Ids]:
    """Repeated n-grams of `size` words, computed from those of one word less.

    Positions, ascending; id of the n-gram at each; number of occurrences of each.
    """
    if not len(positions):
        return positions, grams, grams
    fits = int(positions.searchsorted(len(word_ids) - size, side="right"))
    positions, grams = positions[:fits], grams[:fits]
    if not fits:
        return positions, grams, grams
    following = word_ids[positions + size - 1]
    # Exact key of each n-gram: id of its prefix without the last word, then that word's id.
    keys = grams * (int(following.max()) + 1) + following
    order = keys.argsort()
    keys = keys[order]
    same = keys[1:] == keys[:-1]
    if not same.any():
        return positions[:0], grams[:0], grams[:0]
    numbers = np.zeros(fits, dtype=np.int64)
    numbers[order[1:]] = (~same).cumsum()
    counts = np.bincount(numbers)[numbers]
    several = np.flatnonzero(counts > 1)
    return positions[several], numbers[several], counts[several]


def _top_gram(positions: Ids, counts: Ids, size: int, before: Ids, blanks: Ids) -> int:
    """Characters covered by the most frequent n-gram, including blanks within; the first one on ties."""
    if len(before) <= size:
        return 0
    most, start = 1, 0
    if len(counts):
        first = int(counts.argmax())
        most, start = int(counts[first]), int(positions[first])
    within = int(blanks[start + size] - blanks[start + 1])
    return (int(before[start + size] - before[start]) + within) * most


def _covered(positions: Ids, grams: Ids, size: int, before: Ids) -> int:
    """Characters in repetitions; none is counted twice, and n-grams that overlap a counted one are skipped."""
    if not len(positions):
        return 0
    seen: set[int] = set()
    covered, free_from = 0, 0
    lengths = before[positions + size] - before[positions]
    for position, gram, length in zip(positions.tolist(), grams.tolist(), lengths.tolist(), strict=True):
        if position < free_from:
            continue
        if gram in seen:
            covered += length
            free_from = position + size
        else:
            seen.add(gram)
    return covered
