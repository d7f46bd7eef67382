"""Words of short texts and of class names as inputs of the scorer, by number in its vocabularies.

A short text has its first words, and its first one and two words as its beginning; an element has its tag and the
letters of its classes, id, role and item property, alone and in pairs. Only words of the fitted vocabularies count,
those of many sites.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise

import numpy as np

from longcat.stages.data.extract.content.columns import Integers

_NAMES = re.compile(r'\b(?:class|id|role|itemprop|data-testid|aria-label)="([^"]*)"')
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LETTERS = re.compile(r"[a-z]{2,24}")
START_WORDS, FEW_WORDS = 12, 8
MAX_NAMES, MAX_NAME_CHARACTERS, MAX_WORDS = 6, 300, 20
CACHED = 1 << 13


class Vocabulary:
    """Numbers of known words, and of the known words of a text or an element, each once, in order of appearance."""

    def __init__(self, words: Iterable[str]) -> None:
        self.numbers = {word: number for number, word in enumerate(words)}
        # Texts and class names recur on the pages of a site; whole attributes do less, as ids differ.
        self.of_text: Callable[[tuple[str, ...]], tuple[int, ...]] = lru_cache(CACHED)(
            lambda words: self._known(text_words(words))
        )
        self._of_name: Callable[[str], tuple[int, ...]] = lru_cache(CACHED)(lambda name: self._known(name_words(name)))

    def of_kind(self, kind: tuple[str, str]) -> tuple[int, ...]:
        """Known words of an element, given as its tag and attributes."""
        tag, attributes = kind
        known = self.numbers.get("<" + tag)
        found: list[int] = [] if known is None else [known]
        if attributes:
            for name in names(attributes):
                found += self._of_name(name)
        return tuple(dict.fromkeys(found))

    def _known(self, words: list[str]) -> tuple[int, ...]:
        known = dict.fromkeys(map(self.numbers.get, words))
        known.pop(None, None)
        return tuple(known)  # type: ignore[arg-type]


def text_words(words: tuple[str, ...]) -> list[str]:
    """Words from those of a short text; numbers are one word, and the count of few words is one, too."""
    if not words:
        return []
    found = ["0" if word.isdigit() else word for word in words[:START_WORDS]]
    if len(words) <= FEW_WORDS:
        found.append(f"={len(words)}")
    return [*found, "^" + found[0], "^" + " ".join(found[:2])]


def class_words(tag: str, attributes: str) -> list[str]:
    """Words of an element's tag and names."""
    return ["<" + tag, *chain.from_iterable(map(name_words, names(attributes)))]


def names(attributes: str) -> list[str]:
    """Class names and the like, within limits."""
    found: list[str] = []
    for value in _NAMES.findall(attributes)[:MAX_NAMES]:
        found += value[:MAX_NAME_CHARACTERS].split()[:MAX_WORDS]
    return found


def name_words(name: str) -> list[str]:
    """Runs of letters of a name, and pairs of them."""
    parts = _LETTERS.findall(_CAMEL.sub("-", name).lower())
    return [*parts, *map("-".join, pairwise(parts))]


def joined(bags: Sequence[tuple[int, ...]]) -> tuple[Integers, Integers]:
    """All numbers, and the offset of each bag with the end as the last."""
    offsets = np.zeros(len(bags) + 1, np.int64)
    offsets[1:] = np.cumsum([len(bag) for bag in bags])
    return np.fromiter(chain.from_iterable(bags), np.int64, int(offsets[-1])), offsets
