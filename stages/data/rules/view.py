"""Shared tokenisation of a document for all rules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.character_kinds import JOINED, kinds_in
from longcat.stages.data.text.characters import ALONE, SYMBOLS, UNSPACED
from longcat.stages.data.text.markdown_marks import Bare, find_marks
from longcat.stages.data.text.points import plain_form, without_points
from longcat.stages.data.text.script_words import SEPARATOR, separated
from longcat.stages.data.text.spacy_words import split_chunk

# Chunks are cached up to this many characters; about 100 MB.
MAX_REMEMBERED = 2 << 20
_FIRST_CAPACITY = 1 << 12
# Words of scripts without blanks, and East Asian punctuation: no blank belongs before them.
_UNPARTED = re.compile(f"[{UNSPACED}{ALONE}\u3000-\u303f\uff00-\uff65]")

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TextView:
    """A text, its lines, and its word ids.

    `text` and `lines` [n lines] are as written. `chunks` [n lines] are the parts of each line between blanks, and in
    scripts without blanks the words; `kinds` are the bits of `kinds_in(text)`. `prose` and `prose_lines` are counted:
    the same as written, or the text without Markdown marks; `marks` are the lines with marks.
    `word_ids` [n words] are the ids of the prose words in reading order; `line_words` [n lines] counts the words of
    each line; `lengths` (characters without points), `is_symbol`, `has_letter` and `is_parted` (a blank belongs before
    it) [n words] describe each word; `names` are the words by id.
    """

    text: str
    lines: list[str]
    chunks: list[list[str]]
    kinds: int
    prose: str
    prose_lines: list[str]
    marks: dict[int, Bare]
    numbers: dict[str, int]
    names: list[str]
    word_ids: Ids
    line_words: Ids
    lengths: Ids
    is_symbol: Flags
    has_letter: Flags
    is_parted: Flags

    @property
    def n_words(self) -> int:
        return len(self.word_ids)

    def count_of(self, words: Iterable[str]) -> int:
        """How many of `words` occur, also in decomposed form or with points."""
        if not self.kinds & JOINED:
            return sum(map(self._has, set(words)))
        present = {plain_form(self.names[number]) for number in np.unique(self.word_ids).tolist()}
        return len(present.intersection(map(plain_form, words)))

    def _has(self, word: str) -> bool:
        number = self.numbers.get(word)
        return number is not None and bool((self.word_ids == number).any())


class _Column:
    """A growable column of numbers."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.values: npt.NDArray[Any] = np.zeros(_FIRST_CAPACITY, dtype)
        self.size = 0

    def append(self, value: int) -> None:
        if self.size == len(self.values):
            self.values = np.concatenate((self.values, np.zeros_like(self.values)))
        self.values[self.size] = value
        self.size += 1


class _Vocabulary(dict[str, int]):
    """Assigns ids to chunks and caches their words: texts share most chunks, and splitting is expensive.

    The words of chunk `c` are `words[starts[c] : starts[c] + sizes[c]]`, as indices into the word columns.
    """

    def __init__(self) -> None:
        super().__init__()
        self.characters = 0
        self.numbers: dict[str, int] = {}
        self.names: list[str] = []
        self.starts, self.sizes, self.words, self.lengths = (_Column(np.int64) for _ in range(4))
        self.is_symbol, self.has_letter, self.is_parted = (_Column(np.bool_) for _ in range(3))

    def __missing__(self, chunk: str) -> int:
        number = self[chunk] = len(self)
        self.characters += len(chunk)
        words = split_chunk(chunk)
        self.starts.append(self.words.size)
        self.sizes.append(len(words))
        for word in words:
            self.words.append(self._number(word))
        return number

    def _number(self, word: str) -> int:
        number = self.numbers.get(word)
        if number is None:
            number = self.numbers[word] = len(self.numbers)
            self.names.append(word)
            self.lengths.append(len(word if word.isascii() else without_points(word)))
            self.is_parted.append(word.isascii() or not _UNPARTED.match(word))
            self.is_symbol.append(SYMBOLS.issuperset(word))
            self.has_letter.append(word.isalpha() or any(map(str.isalpha, word)))
        return number


@cache
def _shared() -> list[_Vocabulary]:
    return [_Vocabulary()]


def _vocabulary() -> _Vocabulary:
    shared = _shared()
    if shared[0].characters > MAX_REMEMBERED:
        shared[0] = _Vocabulary()
    return shared[0]


def view_text(text: str, spare_markdown: bool = False) -> TextView:
    """Tokenise `text` once. Results do not depend on earlier texts, except for word ids.

    With `spare_markdown`, marks written by extraction are not words, and fenced code is not prose.
    """
    vocabulary = _vocabulary()
    kinds = kinds_in(text)
    parted = separated(text, kinds)
    lines = text.split("\n")
    parted_lines = lines if parted is text else parted.split("\n")
    chunks = [line.split() for line in parted_lines]
    prose, prose_lines, counted = text, lines, chunks
    marks = find_marks(text, parted_lines, chunks) if spare_markdown else {}
    if marks:
        if parted is not text:
            marks = {at: (line and line.replace(SEPARATOR, ""), words) for at, (line, words) in marks.items()}
        bare: list[str | None] = [*lines]
        counted = chunks.copy()
        for number, (line, words) in marks.items():
            bare[number], counted[number] = line, words
        prose_lines = [line for line in bare if line is not None]
        prose = "\n".join(prose_lines)
    in_line = np.fromiter(map(len, counted), dtype=np.int64, count=len(counted))
    flat = chain.from_iterable(counted)
    numbered = np.fromiter(map(vocabulary.__getitem__, flat), dtype=np.int64, count=int(in_line.sum()))
    sizes = vocabulary.sizes.values[numbered]
    ends = np.concatenate(([0], np.cumsum(sizes)))
    places = np.repeat(vocabulary.starts.values[numbered] - ends[:-1], sizes) + np.arange(ends[-1])
    ids = vocabulary.words.values[places]
    return TextView(
        text=text,
        lines=lines,
        chunks=chunks,
        kinds=kinds,
        prose=prose,
        prose_lines=prose_lines,
        marks=marks,
        numbers=vocabulary.numbers,
        names=vocabulary.names,
        word_ids=ids,
        line_words=np.diff(ends[np.cumsum(in_line)], prepend=0),
        lengths=vocabulary.lengths.values[ids],
        is_symbol=vocabulary.is_symbol.values[ids],
        has_letter=vocabulary.has_letter.values[ids],
        is_parted=vocabulary.is_parted.values[ids],
    )
