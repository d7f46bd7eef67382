"""One tokenisation of a document, from which every rule takes its counts."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.data.filter.characters import SYMBOLS

# The published rules count spaCy's words. This follows its English rules where they move a count: addresses, numbers,
# abbreviations and what signs hold together inside a word are one word; hyphens between letters, clitics ('s, n't)
# and every other sign are words of their own. A line break is a token too, so that words can be counted a line.
_JOINED = (
    r"(?:(?:(?<![a-z])\.|[.@](?![A-Z]))\w+"
    r"|[,:/=<>]+\d\w*"
    r"|(?<=\D)-\d\w*"
    r"|['’](?!(?:[stdm]|re|ve|ll)\b)\w+"
    r"|[()\[\]{}\"!?;&#$%^*+|\\\u00ad\u200b-\u200d]+\w+)*"
)
_TOKEN = re.compile(
    r"https?://[^\s<>\"]*[\w/]"
    r"|(?<!\w)(?:[A-Za-z]\.){2,}"
    rf"|(?:(?<!\S)[-/@.=+]+)?\w+{_JOINED}(?:[/=@+]+(?!\S))?"
    r"|['’](?:[stdm]|re|ve|ll)\b"
    r"|\.{2,}|--+|\n|[^\w\s]"
)


@dataclass(frozen=True, slots=True)
class TextView:
    """A text, its lines, and its words as numbers.

    `words` holds each distinct word once; `word_ids` [n words] indexes it in reading order; `line_words` [n lines]
    counts the words of each line; `lengths`, `is_symbol` and `has_letter` [n distinct words] describe `words`.
    """

    text: str
    lines: list[str]
    words: list[str]
    word_ids: npt.NDArray[np.int64]
    line_words: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    is_symbol: npt.NDArray[np.bool_]
    has_letter: npt.NDArray[np.bool_]

    @property
    def n_words(self) -> int:
        return len(self.word_ids)


def view_text(text: str) -> TextView:
    """Tokenise `text` once."""
    tokens = _TOKEN.findall(text)
    distinct = {word: number for number, word in enumerate(dict.fromkeys(["\n", *tokens]))}
    ids = np.fromiter(map(distinct.__getitem__, tokens), dtype=np.int64, count=len(tokens))
    is_break = ids == 0
    line_of = np.cumsum(is_break)[~is_break]
    words = list(distinct)[1:]
    lines = text.split("\n")
    count = len(words)
    return TextView(
        text=text,
        lines=lines,
        words=words,
        word_ids=ids[~is_break] - 1,
        line_words=np.bincount(line_of, minlength=len(lines)),
        lengths=np.fromiter(map(len, words), dtype=np.int64, count=count),
        is_symbol=np.fromiter(map(SYMBOLS.issuperset, words), dtype=np.bool_, count=count),
        has_letter=np.fromiter(map(_has_letter, words), dtype=np.bool_, count=count),
    )


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))


def ratio(part: float, whole: float) -> float:
    """`part / whole`, 0 where there is nothing to divide by."""
    return float(part / whole) if whole else 0.0
