"""What the quality and repetition rules of Gopher measure (Rae et al. 2021, arXiv 2112.11446, appendix A1.1)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from longcat.stages.data.filter.view import TextView, ratio

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)

Ids = npt.NDArray[np.int64]


def measure_quality(view: TextView, stop_words: Iterable[str]) -> dict[str, float]:
    """Counts and ratios of the quality rules; a symbol is a word without letter, digit or other sign of its own."""
    real = ~view.is_symbol
    n_real = int(np.count_nonzero(real))
    lines = view.prose.splitlines()
    bullets = sum([line.lstrip().startswith(("•", "-")) for line in lines])
    dots = view.prose.count("...") + view.prose.count("…")
    ellipses = sum([line.rstrip().endswith(("...", "…")) for line in lines]) if dots else 0
    return {
        "words": n_real,
        "mean_word_length": ratio(int(view.lengths @ real), n_real),
        "hash_ratio": ratio(view.prose.count("#"), view.n_words),
        "ellipsis_ratio": ratio(dots, view.n_words),
        "bullet_line_fraction": ratio(bullets, len(lines)),
        "ellipsis_line_fraction": ratio(ellipses, len(lines)),
        "alphabetic_word_fraction": ratio(int(np.count_nonzero(view.has_letter)), view.n_words),
        "stop_words": sum(map(view.has, set(stop_words))),
    }


def measure_repetition(view: TextView) -> dict[str, float]:
    """Fractions of the text, by number and by characters, that repeat something said before in it."""
    characters = len(view.prose)
    paragraphs = [part.lstrip("\n") for part in view.prose.strip().split("\n\n") if part]
    lines = [line for line in view.prose_lines if line]
    values = {
        "duplicate_paragraph_fraction": duplicate_fraction(paragraphs),
        "duplicate_paragraph_characters": ratio(duplicate_characters(paragraphs), characters),
        "duplicate_line_fraction": duplicate_fraction(lines),
        "duplicate_line_characters": ratio(duplicate_characters(lines), characters),
    }
    before = np.concatenate(([0], np.cumsum(view.lengths)))
    positions, grams = np.arange(view.n_words), view.word_ids
    for size in TOP_SIZES:
        positions, grams, counts = _repeated(positions, grams, view.word_ids, size)
        values[f"top_{size}_gram"] = ratio(_top_gram(positions, counts, size, before), characters)
    for size in DUPLICATE_SIZES:
        positions, grams, _ = _repeated(positions, grams, view.word_ids, size)
        values[f"duplicate_{size}_grams"] = ratio(_covered(positions, grams, size, before), characters)
    return values


def duplicate_fraction(items: Sequence[str]) -> float:
    """Share of the items that were there before."""
    return ratio(len(items) - len(set(items)), len(items))


def duplicate_characters(items: Sequence[str]) -> int:
    """Characters in the items that were there before."""
    return sum(map(len, items)) - sum(map(len, set(items)))


def _repeated(positions: Ids, grams: Ids, word_ids: Ids, size: int) -> tuple[Ids, Ids, Ids]:
    """Where the n-grams of `size` words stand that occur more than once, given the same of one word less.

    Positions, ascending; the number of the n-gram at each, equal for equal n-grams; how often each occurs.
    """
    if not len(positions):
        return positions, grams, grams
    fits = int(positions.searchsorted(len(word_ids) - size, side="right"))
    positions, grams = positions[:fits], grams[:fits]
    if not fits:
        return positions, grams, grams
    following = word_ids[positions + size - 1]
    # A key for each n-gram, exact: the n-gram's number without its last word, then that word's.
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


def _top_gram(positions: Ids, counts: Ids, size: int, before: Ids) -> int:
    """Characters that the most frequent n-gram covers, blanks included; of several, the one that stands first."""
    if len(before) <= size:
        return 0
    most, start = 1, 0
    if len(counts):
        first = int(counts.argmax())
        most, start = int(counts[first]), int(positions[first])
    return (int(before[start + size] - before[start]) + size - 1) * most


def _covered(positions: Ids, grams: Ids, size: int, before: Ids) -> int:
    """Characters in repetitions; none is counted twice, and n-grams that overlap a counted one are passed over."""
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
