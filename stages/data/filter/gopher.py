"""What the quality and repetition rules of Gopher measure (Rae et al. 2021, arXiv 2112.11446, appendix A1.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from stages.data.filter.view import TextView, ratio

_PARAGRAPH_BREAK = re.compile(r"\n{2,}")
TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)

Ids = npt.NDArray[np.int64]


def measure_quality(view: TextView, stop_words: Iterable[str]) -> dict[str, float]:
    """Counts and ratios of the quality rules; a symbol is a word without letter, digit or other sign of its own."""
    occurrences = np.bincount(view.word_ids, minlength=len(view.words))
    real = occurrences * ~view.is_symbol
    n_real = int(real.sum())
    lines = view.text.splitlines()
    bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines)
    ellipses = sum(line.rstrip().endswith(("...", "…")) for line in lines)
    dots = view.text.count("...") + view.text.count("…")
    return {
        "words": n_real,
        "mean_word_length": ratio(int(real @ view.lengths), n_real),
        "hash_ratio": ratio(view.text.count("#"), view.n_words),
        "ellipsis_ratio": ratio(dots, view.n_words),
        "bullet_line_fraction": ratio(bullets, len(lines)),
        "ellipsis_line_fraction": ratio(ellipses, len(lines)),
        "alphabetic_word_fraction": ratio(int((occurrences * view.has_letter).sum()), view.n_words),
        "stop_words": len(set(stop_words).intersection(view.words)),
    }


def measure_repetition(view: TextView) -> dict[str, float]:
    """Fractions of the text, by number and by characters, that repeat something said before in it."""
    characters = len(view.text)
    paragraphs = _PARAGRAPH_BREAK.split(view.text.strip())
    lines = [line for line in view.lines if line]
    values = {
        "duplicate_paragraph_fraction": duplicate_fraction(paragraphs),
        "duplicate_paragraph_characters": ratio(duplicate_characters(paragraphs), characters),
        "duplicate_line_fraction": duplicate_fraction(lines),
        "duplicate_line_characters": ratio(duplicate_characters(lines), characters),
    }
    lengths = view.lengths[view.word_ids]
    before = np.concatenate(([0], np.cumsum(lengths)))
    grams = view.word_ids
    for size in TOP_SIZES:
        grams, top = _top_gram(grams, view.word_ids, size, before)
        values[f"top_{size}_gram"] = ratio(top, characters)
    positions = np.flatnonzero(np.bincount(grams, minlength=1)[grams] > 1) if len(grams) else grams
    grams = grams[positions]
    for size in DUPLICATE_SIZES:
        positions, grams = _repeated(positions, grams, view.word_ids, size)
        values[f"duplicate_{size}_grams"] = ratio(_covered(positions, grams, size, before), characters)
    return values


def duplicate_fraction(items: Sequence[str]) -> float:
    """Share of the items that were there before."""
    return ratio(len(items) - len(set(items)), len(items))


def duplicate_characters(items: Sequence[str]) -> int:
    """Characters in the items that were there before."""
    return sum(map(len, items)) - sum(map(len, set(items)))


def _extend(grams: Ids, word_ids: Ids, following: Ids) -> Ids:
    """A key for each n-gram made of an (n-1)-gram and the word after it; exact, since both are numbered densely."""
    return grams * (int(word_ids.max()) + 1) + following


def _top_gram(grams: Ids, word_ids: Ids, size: int, before: Ids) -> tuple[Ids, int]:
    """Number the n-grams of `size` words; with the characters that the most frequent one covers, blanks included."""
    if len(word_ids) < size:
        return grams[:0], 0
    keys = _extend(grams[: len(word_ids) - size + 1], word_ids, word_ids[size - 1 :])
    _, first, numbered, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
    most = int(counts.max())
    start = int(first[counts == most].min())
    length = int(before[start + size] - before[start]) + size - 1
    return numbered, length * most


def _repeated(positions: Ids, grams: Ids, word_ids: Ids, size: int) -> tuple[Ids, Ids]:
    """Where the n-grams of `size` words stand that occur more than once, given the same of one word less."""
    fits = positions + size <= len(word_ids)
    positions, grams = positions[fits], grams[fits]
    if not len(positions):
        return positions, grams
    keys = _extend(grams, word_ids, word_ids[positions + size - 1])
    _, numbered, counts = np.unique(keys, return_inverse=True, return_counts=True)
    again = counts[numbered] > 1
    return positions[again], numbered[again]


def _covered(positions: Ids, grams: Ids, size: int, before: Ids) -> int:
    """Characters in repetitions; none is counted twice, and n-grams that overlap a counted one are passed over."""
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
