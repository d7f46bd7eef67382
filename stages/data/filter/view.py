"""One tokenisation of a document, from which every rule takes its counts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.stages.data.filter.characters import SYMBOLS
from longcat.stages.data.filter.markdown import Bare, find_marks
from longcat.stages.data.filter.words import split_chunk

# Chunks are remembered until they have this many characters; some 100 MB.
MAX_REMEMBERED = 2 << 20
_FIRST_CAPACITY = 1 << 12

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TextView:
    """A text, its lines, and its words as numbers.

    `text`, `lines` and `chunks` [n lines], what stands between blanks on each line, are as written. `prose` and
    `prose_lines` are what is counted: the same, or the text without the marks of markdown; `marks` are the lines of the
    text that held some. `word_ids` [n words] numbers the words of the prose in reading order, equal words equally;
    `line_words` [n lines] counts the words of each line; `lengths` (characters), `is_symbol` and `has_letter` [n words]
    describe each word.
    """

    text: str
    lines: list[str]
    chunks: list[list[str]]
    prose: str
    prose_lines: list[str]
    marks: dict[int, Bare]
    numbers: dict[str, int]
    word_ids: Ids
    line_words: Ids
    lengths: Ids
    is_symbol: Flags
    has_letter: Flags

    @property
    def n_words(self) -> int:
        return len(self.word_ids)

    def has(self, word: str) -> bool:
        """Whether `word` is one of the words."""
        number = self.numbers.get(word)
        return number is not None and bool((self.word_ids == number).any())


class _Column:
    """A column of numbers that grows at its end."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.values: npt.NDArray[Any] = np.zeros(_FIRST_CAPACITY, dtype)
        self.size = 0

    def append(self, value: int) -> None:
        if self.size == len(self.values):
            self.values = np.concatenate((self.values, np.zeros_like(self.values)))
        self.values[self.size] = value
        self.size += 1


class _Vocabulary(dict[str, int]):
    """Numbers every chunk met and remembers its words: texts share most of their chunks, and splitting is what costs.

    The words of chunk `c` are `words[starts[c] : starts[c] + sizes[c]]`, as numbers into the columns of words.
    """

    def __init__(self) -> None:
        super().__init__()
        self.characters = 0
        self.numbers: dict[str, int] = {}
        self.starts, self.sizes, self.words, self.lengths = (_Column(np.int64) for _ in range(4))
        self.is_symbol, self.has_letter = _Column(np.bool_), _Column(np.bool_)

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
            self.lengths.append(len(word))
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
    """Tokenise `text` once. What is found does not depend on the texts before, though the numbers of words do.

    With `spare_markdown` the marks that extraction wrote are no words, and fenced code is no prose.
    """
    vocabulary = _vocabulary()
    lines = text.split("\n")
    chunks = [line.split() for line in lines]
    prose, prose_lines, counted = text, lines, chunks
    marks = find_marks(text, lines, chunks) if spare_markdown else {}
    if marks:
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
        prose=prose,
        prose_lines=prose_lines,
        marks=marks,
        numbers=vocabulary.numbers,
        word_ids=ids,
        line_words=np.diff(ends[np.cumsum(in_line)], prepend=0),
        lengths=vocabulary.lengths.values[ids],
        is_symbol=vocabulary.is_symbol.values[ids],
        has_letter=vocabulary.has_letter.values[ids],
    )


def ratio(part: float, whole: float) -> float:
    """`part / whole`, 0 where there is nothing to divide by."""
    return float(part / whole) if whole else 0.0
