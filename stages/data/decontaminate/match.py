"""Search for benchmark items in one document."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from longcat.stages.data.decontaminate.index import Index, Lookup, Passages
from longcat.stages.data.decontaminate.word_stream import ABSENT, Hashes, Lexicon, NgramHasher, Numbers, WordStream

# Document words whose n-grams are in memory at once.
STRETCH_WORDS = 1 << 20
# Document blocks compared with the passages at once.
BLOCKS_AT_ONCE = 64
TABLE_BITS = 22
# From most to least certain.
RULES = ("ngram", "whole", "similar")


@dataclass(frozen=True, slots=True)
class Match:
    """A part found in a document: word ranges (first, last exclusive), and `share` of its content words.

    `ngrams` is the number of exact matches; 0 means only similar. `share` is 1 for exact matches.
    """

    part: int
    rule: str
    spans: tuple[tuple[int, int], ...]
    ngrams: int
    share: float


class _Table:
    """Mask of hashes that are keys: a flag table rejects nearly all, a binary search decides the rest.

    Keys are sums of products by an odd number, so the high bits depend on every word.
    """

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup
        self._set = np.zeros(1 << TABLE_BITS, dtype=np.bool_)
        self._set[self._slots(lookup.keys)] = True

    @staticmethod
    def _slots(hashes: Hashes) -> Numbers:
        return (hashes >> np.uint64(64 - TABLE_BITS)).astype(np.int64)

    def find(self, hashes: Hashes) -> Iterator[tuple[int, int]]:
        """Position in `hashes` and owner of every hit, in order."""
        places = np.flatnonzero(self._set[self._slots(hashes)])
        keys = np.searchsorted(self._lookup.keys, hashes[places])
        keys = np.minimum(keys, len(self._lookup.keys) - 1)
        exact = self._lookup.keys[keys] == hashes[places]
        for place, key in zip(places[exact].tolist(), keys[exact].tolist(), strict=True):
            owners = self._lookup.owners[self._lookup.starts[key] : self._lookup.starts[key + 1]]
            yield from ((place, owner) for owner in owners.tolist())


class Scanner:
    """Compares documents with an index."""

    def __init__(self, index: Index, similarity: float) -> None:
        self._ngram = index.ngram
        self._similar = SimilarPassages(index.passages, similarity) if len(index.passages.parts) else None
        self._lexicon = Lexicon(index.passages.vocabulary)
        self._ngrams = _Table(index.ngrams)
        self._beginnings = {length: _Table(lookup) for length, lookup in index.beginnings.items()}
        self._wholes = index.wholes
        longest = np.diff(index.wholes.starts).max(initial=0)
        self._overlap = max(index.ngram, int(longest)) - 1

    def scan(self, text: str) -> list[Match]:
        """All parts found in the text, by the first matching rule; ordered by part."""
        return self.scan_words(self._lexicon.read(text))

    def scan_words(self, words: WordStream) -> list[Match]:
        """See `scan`."""
        found: dict[int, Match] = {}
        for rule, places in (("ngram", self._find_ngrams), ("whole", self._find_wholes)):
            spans: dict[int, list[tuple[int, int]]] = {}
            for start, stretch in self._stretches(words.hashes):
                for place, length, part in places(stretch):
                    spans.setdefault(part, []).append((start + place, start + place + length))
            for part, own in spans.items():
                found.setdefault(part, Match(part, rule, merge_spans(own), len(own), 1.0))
        if self._similar is not None:
            for match in self._similar.find(words.numbers):
                found.setdefault(match.part, match)
        return [found[part] for part in sorted(found)]

    def _stretches(self, hashes: Hashes) -> Iterator[tuple[int, NgramHasher]]:
        """Overlapping chunks of a document, so that every match is within one chunk."""
        for start in range(0, len(hashes), STRETCH_WORDS):
            yield start, NgramHasher(hashes[start : start + STRETCH_WORDS + self._overlap])

    def _find_ngrams(self, stretch: NgramHasher) -> Iterator[tuple[int, int, int]]:
        """Position, length and part of every n-gram match that starts in the chunk."""
        for place, part in self._ngrams.find(stretch.of(self._ngram)[:STRETCH_WORDS]):
            yield place, self._ngram, part

    def _find_wholes(self, stretch: NgramHasher) -> Iterator[tuple[int, int, int]]:
        """Position, length and part of every whole match that starts in the chunk."""
        wholes = self._wholes
        for length, table in self._beginnings.items():
            for place, number in table.find(stretch.of(length)[:STRETCH_WORDS]):
                wanted = wholes.words[wholes.starts[number] : wholes.starts[number + 1]]
                if np.array_equal(stretch.words[place : place + len(wanted)], wanted):
                    yield place, len(wanted), int(wholes.parts[number])


def merge_spans(spans: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Sorted ranges, with adjacent ones merged."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


class SimilarPassages:
    """Finds passages with most of their content words, by weight, within a window of a document.

    A document is split into blocks that overlap by the longest window. Blocks are filtered by the passages' rare words,
    and the remaining ones compared word by word.
    """

    def __init__(self, passages: Passages, threshold: float) -> None:
        self._passages = passages
        self._threshold = threshold
        self._step = int(passages.windows.max())
        self._rare_place = np.full(len(passages.vocabulary), ABSENT, dtype=np.int64)
        self._rare_place[passages.rare.keys.astype(np.int64)] = np.arange(len(passages.rare.keys))
        self._sizes = np.diff(passages.rare.starts)

    def find(self, numbers: Numbers) -> Iterator[Match]:
        """Best window of every passage that reaches the threshold, at most one match per part."""
        best: dict[int, Match] = {}
        for start, passage in self._candidates(numbers):
            match = self._best_window(numbers, start, passage)
            if match is not None and (match.part not in best or match.share > best[match.part].share):
                best[match.part] = match
        yield from best.values()

    def _candidates(self, numbers: Numbers) -> Iterator[tuple[int, int]]:
        """Candidates: first word of a block, and a passage with enough rare words in it."""
        rare = np.where(numbers == ABSENT, ABSENT, self._rare_place[numbers])
        places = np.flatnonzero(rare != ABSENT)
        words = rare[places]
        blocks = places // self._step
        width = len(self._passages.rare.keys)
        # Blocks overlap by half, so a word is in two blocks.
        keys = np.unique(np.concatenate([blocks * width + words, np.maximum(blocks - 1, 0) * width + words]))
        blocks, words = np.divmod(keys, width)
        total = int(blocks[-1]) + 1 if len(blocks) else 0
        for first in range(0, total, BLOCKS_AT_ONCE):
            low, high = np.searchsorted(blocks, [first, first + BLOCKS_AT_ONCE])
            yield from self._compare(blocks[low:high] - first, words[low:high], first)

    def _compare(self, blocks: Numbers, words: Numbers, first: int) -> Iterator[tuple[int, int]]:
        if not len(words):
            return
        passages = self._passages
        sizes = self._sizes[words]
        ends = np.cumsum(sizes)
        within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
        owners = passages.rare.owners[np.repeat(passages.rare.starts[words], sizes) + within]
        weights = np.repeat(passages.weights[passages.rare.keys[words].astype(np.int64)], sizes)
        count = len(passages.parts)
        cells = np.repeat(blocks, sizes) * count + owners
        sums = np.bincount(cells, weights=weights, minlength=(int(blocks[-1]) + 1) * count)
        required = np.tile(passages.required, int(blocks[-1]) + 1)
        # Sums are in another order than the required ones.
        reached = np.flatnonzero((sums >= required - 1e-9) & (sums > 0))
        for cell in reached.tolist():
            block, passage = divmod(cell, count)
            yield (first + block) * self._step, passage

    def _best_window(self, numbers: Numbers, start: int, passage: int) -> Match | None:
        passages = self._passages
        wanted = passages.words[passages.starts[passage] : passages.starts[passage + 1]]
        block = numbers[start : start + 2 * self._step]
        places = np.flatnonzero(np.isin(block, wanted))
        window, total = int(passages.windows[passage]), float(passages.totals[passage])
        least = self._threshold * total
        if passages.weights[np.unique(block[places])].sum() < least - 1e-9:
            return None
        share, first, last = _heaviest_window(places.tolist(), block[places].tolist(), passages.weights, window)
        if share < least - 1e-9:
            return None
        span = (start + first, start + last + 1)
        return Match(int(passages.parts[passage]), "similar", (span,), 0, share / total)


def _heaviest_window(
    places: list[int], words: list[int], weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]], window: int
) -> tuple[float, int, int]:
    """Window of `window` words with the largest weight of distinct words: weight, first and last position."""
    weight = {word: float(weights[word]) for word in words}
    held = dict.fromkeys(words, 0)
    best, at, total, tail = 0.0, (0, 0), 0.0, 0
    for head, (place, word) in enumerate(zip(places, words, strict=True)):
        total += weight[word] if not held[word] else 0.0
        held[word] += 1
        while place - places[tail] >= window:
            held[words[tail]] -= 1
            total -= weight[words[tail]] if not held[words[tail]] else 0.0
            tail += 1
        if total > best:
            best, at = total, (places[tail], places[head])
    return best, at[0], at[1]
