"""Search index as sorted arrays of hashes: n-grams, short whole items, and content words of passages."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.files import atomic_path
from longcat.stages.data.decontaminate.config import PASSAGE_WORDS, WINDOW_RATIO, DecontaminateConfig
from longcat.stages.data.decontaminate.items import Part
from longcat.stages.data.decontaminate.stopwords import stop_words
from longcat.stages.data.decontaminate.word_stream import (
    Hashes,
    NgramHasher,
    Numbers,
    hash_word,
    hash_words,
    without_punctuation,
    words_of,
)

Weights = npt.NDArray[np.float64]
# Extra weight of a passage's rare words beyond the missing weight allowed: see `_rare_words`.
RARE_SHARE = 0.3
# A part searched as a whole is limited to this multiple of the n-gram length.
WHOLE_NGRAMS = 4
MAX_BEGINNING = 8


@dataclass(frozen=True)
class Lookup:
    """Maps keys to parts or passages: entry i of `keys` has `owners[starts[i]:starts[i+1]]`."""

    keys: Hashes
    starts: Numbers
    owners: Numbers

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, int]]) -> Lookup:
        """Build from pairs of key and owner."""
        ordered = np.array(sorted(set(pairs)), dtype=np.uint64).reshape(-1, 2)
        keys, starts = np.unique(ordered[:, 0], return_index=True)
        return cls(keys, np.append(starts, len(ordered)).astype(np.int64), ordered[:, 1].astype(np.int64))


@dataclass(frozen=True)
class Passages:
    """Passages of parts by content words; vocabulary word w has weight `weights[w]`.

    Passage p belongs to `parts[p]`, has total weight `totals[p]`, is compared with windows of `windows[p]` words, and
    has the words `words[starts[p]:starts[p+1]]`. `rare` looks up passages by some of their rarest words: a matching
    document has at least `required[p]` of their weight.
    """

    vocabulary: Hashes
    weights: Weights
    parts: Numbers
    totals: Weights
    windows: Numbers
    words: Numbers
    starts: Numbers
    rare: Lookup
    required: Weights


@dataclass(frozen=True)
class Wholes:
    """Texts searched as a whole: text w belongs to `parts[w]` and is `words[starts[w]:starts[w+1]]`."""

    parts: Numbers
    words: Hashes
    starts: Numbers


@dataclass(frozen=True)
class Index:
    """All search data.

    `ngrams` looks up parts by n-grams of `ngram` words; `beginnings[n]` looks up texts of `wholes` by their first n
    words.
    """

    ngram: int
    ngrams: Lookup
    beginnings: dict[int, Lookup]
    wholes: Wholes
    passages: Passages


@dataclass
class Indexed:
    """An index and, by part number, the rules that search for it (`ngram`, `whole`, `similar`)."""

    index: Index
    rules: list[tuple[str, ...]]
    words: list[int] = field(default_factory=list)


def build_index(parts: Sequence[Part], config: DecontaminateConfig) -> Indexed:
    """Index parts; a part's number is its index in `parts`."""
    pairs: list[tuple[int, int]] = []
    wholes: list[tuple[int, Hashes]] = []
    rules: list[list[str]] = [[] for _ in parts]
    streams = [words_of(part.text) for part in parts]
    for number, (part, words) in enumerate(zip(parts, streams, strict=True)):
        for spelling in _spellings(part.text, words):
            rule = rule_of(spelling, config)
            hashes = hash_words(spelling)
            if rule == "ngram":
                telling = NgramHasher(hashes).of(config.ngram)[telling_ngrams(spelling, config)]
                pairs.extend((value, number) for value in telling.tolist())
            elif rule == "whole":
                wholes.append((number, hashes[: WHOLE_NGRAMS * config.ngram]))
            if rule is not None and rule not in rules[number]:
                rules[number].append(rule)
    passages = _passages(streams, config)
    for number in sorted(set(passages.parts.tolist())):
        rules[number].append("similar")
    index = Index(config.ngram, Lookup.of(pairs), _beginnings(wholes), _wholes(wholes), passages)
    return Indexed(index, [tuple(found) for found in rules], [len(words) for words in streams])


def _wholes(wholes: Sequence[tuple[int, Hashes]]) -> Wholes:
    return Wholes(
        parts=np.array([number for number, _ in wholes], dtype=np.int64),
        words=np.concatenate([np.zeros(0, dtype=np.uint64), *(hashes for _, hashes in wholes)]),
        starts=np.cumsum([0, *(len(hashes) for _, hashes in wholes)]).astype(np.int64),
    )


def _beginnings(wholes: Sequence[tuple[int, Hashes]]) -> dict[int, Lookup]:
    """Lookup by the first 1, 2, 4 or 8 words, the largest that a text has, to limit the number of lengths."""
    pairs: dict[int, list[tuple[int, int]]] = {}
    for place, (_, hashes) in enumerate(wholes):
        length = min(MAX_BEGINNING, 1 << (len(hashes).bit_length() - 1))
        pairs.setdefault(length, []).append((int(NgramHasher(hashes[:length]).of(length)[0]), place))
    return {length: Lookup.of(found) for length, found in sorted(pairs.items())}


def _spellings(text: str, words: list[bytes]) -> Iterator[list[bytes]]:
    """Words with punctuation as separator, and with punctuation deleted, as either may occur in documents."""
    yield words
    closed = words_of(without_punctuation(text))
    if closed != words:
        yield closed


def rule_of(words: Sequence[bytes], config: DecontaminateConfig) -> str | None:
    """Exact search method of a part: n-grams, whole, or none if too short.

    A part shorter than an n-gram, or without an informative n-gram, is searched as a whole (only its beginning if
    long).
    """
    if len(words) < config.min_words:
        return None
    return "ngram" if any(telling_ngrams(words, config)) else "whole"


def telling_ngrams(words: Sequence[bytes], config: DecontaminateConfig) -> list[bool]:
    """Mask of informative n-grams."""
    count = max(0, len(words) - config.ngram + 1)
    return [is_telling(words[at : at + config.ngram], config.min_distinct_words) for at in range(count)]


def is_telling(words: Sequence[bytes], least: int) -> bool:
    """Whether at least `least` distinct words have two or more characters and are not numbers."""
    return len({word for word in words if len(word) > 1 and not word.isdigit()}) >= least


def _passages(streams: Sequence[list[bytes]], config: DecontaminateConfig) -> Passages:
    """Passages of every part with enough content words; long parts are split."""
    found: list[tuple[int, int, list[bytes]]] = []
    for number, words in enumerate(streams if config.similar else ()):
        count = max(1, round(len(words) / PASSAGE_WORDS))
        for piece in range(count):
            passage = words[len(words) * piece // count : len(words) * (piece + 1) // count]
            # Single letters are variable names in formulas and code, which are not informative.
            content = sorted(word for word in set(passage) - stop_words() if len(word) > 1 or word.isdigit())
            if len(content) >= config.min_content_words:
                found.append((number, len(passage), content))
    holders = Counter(word for _, _, content in found for word in content)
    by_hash = sorted((hash_word(word), word) for word in holders)
    numbers = {word: number for number, (_, word) in enumerate(by_hash)}
    counts = np.array([holders[word] for _, word in by_hash], dtype=np.float64)
    # Words rare among items are informative; adding one keeps the weights of a single item positive.
    weights = np.log((len(found) + 1) / counts) if found else counts
    contents = [np.array([numbers[word] for word in content], dtype=np.int64) for _, _, content in found]
    totals = np.array([weights[content].sum() for content in contents], dtype=np.float64)
    rare, required = _rare_words(contents, totals, weights, config.similarity)
    return Passages(
        vocabulary=np.array([value for value, _ in by_hash], dtype=np.uint64),
        weights=weights,
        parts=np.array([number for number, _, _ in found], dtype=np.int64),
        totals=totals,
        windows=np.array([math.ceil(WINDOW_RATIO * length) for _, length, _ in found], dtype=np.int64),
        words=np.concatenate(contents) if contents else np.zeros(0, dtype=np.int64),
        starts=np.cumsum([0, *map(len, contents)]).astype(np.int64),
        rare=rare,
        required=required,
    )


def _rare_words(
    contents: Sequence[Numbers], totals: Weights, weights: Weights, threshold: float
) -> tuple[Lookup, Weights]:
    """Heaviest words of each passage until their weight exceeds the allowed missing weight, and the required weight.

    A match lacks at most (1 - threshold) of the weight, so it has some of these words. Looking up only these misses no
    passage, and few passages share a rare word.
    """
    pairs: list[tuple[int, int]] = []
    required = np.zeros(len(contents), dtype=np.float64)
    for passage, content in enumerate(contents):
        ordered = content[np.lexsort((content, -weights[content]))]
        sums = np.cumsum(weights[ordered])
        lacking = (1 - threshold) * totals[passage]
        count = min(int(np.searchsorted(sums, lacking + RARE_SHARE * totals[passage])) + 1, len(ordered))
        pairs.extend((int(word), passage) for word in ordered[:count])
        required[passage] = sums[count - 1] - lacking
    return Lookup.of(pairs), required


def save_index(path: Path, index: Index) -> None:
    """Write an index as .npz."""
    tables: dict[str, Lookup | Wholes | Passages] = {
        "ngrams": index.ngrams,
        "wholes": index.wholes,
        "passages": index.passages,
        "rare": index.passages.rare,
        **{str(length): lookup for length, lookup in index.beginnings.items()},
    }
    arrays: dict[str, npt.NDArray[np.generic]] = {"ngram": np.array(index.ngram)}
    for table, value in tables.items():
        arrays |= {f"{table}.{name}": column for name, column in vars(value).items() if name != "rare"}
    with atomic_path(path) as aside, aside.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)


def load_index(path: Path) -> Index:
    """Read an index written by `save_index`."""
    tables: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as stored:
        ngram = int(stored["ngram"])
        for file in stored.files:
            table, _, name = file.partition(".")
            if name:
                tables.setdefault(table, {})[name] = stored[file]
    return Index(
        ngram=ngram,
        ngrams=Lookup(**tables.pop("ngrams")),
        wholes=Wholes(**tables.pop("wholes")),
        passages=Passages(rare=Lookup(**tables.pop("rare")), **tables.pop("passages")),
        beginnings={int(length): Lookup(**columns) for length, columns in tables.items()},
    )
