"""MinHash signatures of word n-grams, vectorised over documents, with datasketch's permutations.

A signature is bitwise equal to that of `datasketch.MinHash(num_perm, seed, hashfunc=int, scheme="affine32")` fed with
the document's n-gram hashes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.hashed_words import Counts, Hashes, word_hashes

# n-grams per step: the two arrays of a permutation stay in the CPU cache, without a table of n-grams by permutations.
NGRAMS_A_STEP = 1 << 15
EMPTY_SLOT = np.uint32(0xFFFFFFFF)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

NgramHashes = npt.NDArray[np.uint32]
Signatures = npt.NDArray[np.uint32]


def ngram_hashes(words: Hashes, counts: Counts, size: int) -> tuple[NgramHashes, Counts]:
    """32-bit hash of every n-gram of every document, from word hashes, and n-grams per document.

    `words` is the concatenation of all documents, `counts` their numbers of words. A document of fewer than `size`
    words is one n-gram; one without words has none. Shapes [n n-grams], [n documents].
    """
    words, lengths = _padded(words, counts, size)
    grams = np.maximum(lengths - size + 1, 0)
    inside = np.ones(len(words), dtype=np.bool_)
    ends = np.cumsum(lengths)[lengths > 0]
    for back in range(1, size):
        inside[ends - back] = False
    found = []
    for at in range(0, len(words) - size + 1, NGRAMS_A_STEP):
        combined = _combined(words[at : at + NGRAMS_A_STEP + size - 1], size)
        found.append(combined[inside[at : at + len(combined)]])
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint32), grams


def distinct_ngrams(text: str, size: int) -> NgramHashes:
    """Sorted distinct n-gram hashes of a text."""
    return np.unique(ngram_hashes(*word_hashes([text]), size)[0])


def _padded(words: Hashes, counts: Counts, size: int) -> tuple[Hashes, Counts]:
    """Words with every non-empty document shorter than an n-gram zero-padded to one."""
    lengths = np.where((counts > 0) & (counts < size), size, counts)
    if np.array_equal(lengths, counts):
        return words, counts
    moved = (np.cumsum(lengths) - lengths) - (np.cumsum(counts) - counts)
    filled = np.zeros(int(lengths.sum()), dtype=np.uint64)
    filled[np.arange(len(words)) + np.repeat(moved, counts)] = words
    return filled, lengths


def _combined(words: Hashes, size: int) -> NgramHashes:
    count = len(words) - size + 1
    mixed = np.zeros(count, dtype=np.uint64)
    shifted = np.empty_like(mixed)
    for offset in range(size):
        mixed *= _MULTIPLIER
        mixed ^= words[offset : offset + count]
        mixed ^= np.right_shift(mixed, np.uint64(29), out=shifted)
    mixed *= _MULTIPLIER
    return (mixed >> np.uint64(32)).astype(np.uint32)


@dataclass(frozen=True)
class Permutations:
    """uint32 [num_perm] each: slot i of a signature is the minimum of `factors[i] * hash + summands[i]`."""

    factors: NgramHashes
    summands: NgramHashes


def draw_permutations(num_perm: int, seed: int) -> Permutations:
    """Those of `datasketch.MinHash`, whose import takes longer than signing a shard, so workers receive them."""
    from datasketch import MinHash

    factors, summands = MinHash(num_perm=num_perm, seed=seed, hashfunc=int, scheme="affine32").permutations
    return Permutations(factors, summands)


class Signer:
    """Computes the signatures of documents given as texts."""

    def __init__(self, permutations: Permutations, ngram: int) -> None:
        self._factors, self._summands = permutations.factors, permutations.summands
        self._ngram = ngram

    def sign(self, texts: Sequence[str]) -> Signatures:
        """Signatures, [n texts, num_perm]; every slot is `EMPTY_SLOT` if a text has no words."""
        signatures = np.empty((len(texts), len(self._factors)), dtype=np.uint32)
        plain = np.fromiter((text.isascii() for text in texts), dtype=np.bool_, count=len(texts))
        for rows in (np.flatnonzero(plain), np.flatnonzero(~plain)):
            words, counts = word_hashes([texts[row] for row in rows.tolist()])
            signatures[rows] = self.sign_hashes(*ngram_hashes(words, counts, self._ngram))
        return signatures

    def sign_hashes(self, hashes: NgramHashes, counts: Counts) -> Signatures:
        """Signatures of documents from their concatenated n-gram hashes."""
        minima = np.full((len(self._factors), len(counts)), EMPTY_SLOT, dtype=np.uint32)
        mixed = _mixed(hashes)
        filled = np.flatnonzero(counts)
        starts = (np.cumsum(counts) - counts)[filled]
        values = np.empty(NGRAMS_A_STEP, dtype=np.uint32)
        for at in range(0, len(mixed), NGRAMS_A_STEP):
            step = mixed[at : at + NGRAMS_A_STEP]
            first = int(np.searchsorted(starts, at, side="right")) - 1
            last = int(np.searchsorted(starts, at + len(step)))
            segments = np.maximum(starts[first:last] - at, 0)
            self._lower(minima, filled[first:last], step, segments, values[: len(step)])
        return np.ascontiguousarray(minima.T)

    def _lower(
        self, minima: Signatures, documents: Counts, step: NgramHashes, segments: Counts, values: NgramHashes
    ) -> None:
        """Update `minima` [num_perm, n] of `documents` from their segments of `step`."""
        whole = slice(int(documents[0]), int(documents[-1]) + 1)
        where = whole if whole.stop - whole.start == len(documents) else documents
        for number, (factor, summand) in enumerate(zip(self._factors, self._summands, strict=True)):
            np.multiply(step, factor, out=values)
            np.add(values, summand, out=values)
            row = minima[number]
            row[where] = np.minimum(row[where], np.minimum.reduceat(values, segments))


def _mixed(hashes: NgramHashes) -> NgramHashes:
    """MurmurHash3's finalizer, which datasketch applies before the permutations."""
    mixed = hashes ^ (hashes >> np.uint32(16))
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    return mixed
