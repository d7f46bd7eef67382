"""Words of scripts that are written without blanks: one segmentation for every rule and stage that counts words.

A run of such letters is cut by the dictionaries of ICU (Chinese, Japanese, Thai, Lao, Khmer and Burmese), by letter
where there is none. A run is cut by itself, so its words do not depend on the text around it. Other scripts separate
words by blanks, Tibetan syllables by a tsheg. Marks and joiners belong to the letter before them.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.character_kinds import (
    CUT,
    JOINED,
    OUTSIDE,
    RUN,
    SINGLE,
    Codes,
    Kinds,
    codes_of,
    kind_table,
    present,
    text_of,
)
from longcat.stages.data.text.characters import UNSPACED

# `str.split` splits at it.
SEPARATOR = "\x1f"
_TSHEG = "\u0f0b"
_ZERO_WIDTH_SPACE = "\u200b"
# A line end between two letters of a script without blanks comes from wrapping, not from a blank.
_WRAP = re.compile(rf"\n(?<=[{UNSPACED}]\n)[ \t]*(?=[{UNSPACED}])")
# NFKC takes the last vowel of Thai and Lao apart, and the dictionaries have it in one.
_SARA_AM = ((0xE4D, 0xE32, 0xE33), (0xECD, 0xEB2, 0xEB3))

Places = npt.NDArray[np.int64]


def word_spans(codes: Codes) -> tuple[Places, Places]:
    """Start and end of every word, in order."""
    classes = _classes(codes)
    found = int(np.bitwise_or.reduce(classes))
    if found & JOINED:
        classes = _carried(classes)
    edged = np.zeros(len(classes) + 2, dtype=np.uint8)
    edged[1:-1] = classes
    if not found & (CUT | SINGLE):
        edges = np.flatnonzero(edged[1:] != edged[:-1])
        return edges[::2], edges[1::2]
    changes = edged[1:] != edged[:-1]
    starts, ends = changes[:-1] & (classes != OUTSIDE), changes[1:] & (classes != OUTSIDE)
    inner = _cuts(codes, classes)
    starts[inner] = ends[inner - 1] = True
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1


def has_unspaced(codes: Codes) -> bool:
    """Whether a character belongs to a script without blanks."""
    return bool(present(codes) & (CUT | SINGLE))


def unwrapped(text: str) -> tuple[Codes, Places]:
    """Codes of a normalised text without the line ends within runs, the vowels that NFKC took apart in one, and the
    place in the text of each.
    """
    codes = codes_of(text).copy()
    kept = np.ones(len(codes), dtype=np.bool_)
    line_ends = np.flatnonzero(codes == 10)
    for line_end in line_ends[kind_table()[codes[line_ends - 1]] & (CUT | JOINED) != 0].tolist():
        if wrap := _WRAP.match(text, line_end):
            kept[line_end : wrap.end()] = False
    for first, second, whole in _SARA_AM:
        apart = np.flatnonzero((codes[:-1] == first) & (codes[1:] == second))
        codes[apart + 1] = whole
        kept[apart] = False
    places = np.flatnonzero(kept)
    return codes[places], places


def separated(text: str, kinds: int) -> str:
    """Text with `SEPARATOR` around the words of scripts without blanks, and after every tsheg.

    The same object if it has none of these. `kinds` are the bits of `kinds_in`.
    """
    if not kinds & (CUT | SINGLE):
        return text.replace(_TSHEG, _TSHEG + SEPARATOR) if _TSHEG in text else text
    codes = codes_of(text)
    classes = _carried(_classes(codes))
    unspaced = classes & (CUT | SINGLE) != 0
    edges = np.flatnonzero(unspaced[1:] != unspaced[:-1]) + 1
    at = np.union1d(edges, _cuts(codes, classes))
    marked = text_of(np.insert(codes, at, ord(SEPARATOR)))
    return marked.replace(_TSHEG, _TSHEG + SEPARATOR).replace(_ZERO_WIDTH_SPACE, SEPARATOR)


def _classes(codes: Codes) -> Kinds:
    """Class of every character, as far as words are concerned."""
    return kind_table()[codes] & np.uint8(RUN | CUT | SINGLE | JOINED)


def _carried(classes: Kinds) -> Kinds:
    """Classes with marks and joiners in that of the character before them."""
    carriers = np.where(classes == JOINED, 0, np.arange(len(classes)))
    found = classes[np.maximum.accumulate(carriers)]
    found[found == JOINED] = OUTSIDE  # at the start of the text
    return found


def _cuts(codes: Codes, classes: Kinds) -> Places:
    """Places of word starts within runs of scripts without blanks, in order."""
    places = _dictionary_cuts(codes, classes == CUT)
    single = classes == SINGLE
    if single.any():
        places = np.sort(np.concatenate((places, np.flatnonzero(single[1:] & single[:-1]) + 1)))
    return places[kind_table()[codes[places]] & JOINED == 0]


def _dictionary_cuts(codes: Codes, inside: npt.NDArray[np.bool_]) -> Places:
    from icu4py.breakers import WordBreaker

    # The runs alone, each followed by a line end, so that sparse ones cost nothing.
    kept = inside.copy()
    kept[1:] |= inside[:-1]
    picked = np.flatnonzero(kept)
    runs = np.where(inside[picked], codes[picked], np.uint32(10))
    breaker = WordBreaker(text_of(runs), "")
    starts = np.array([start for start, _ in breaker.segments()], dtype=np.int64)
    if (runs > 0xFFFF).any():  # ICU counts in UTF-16
        starts = np.searchsorted(np.cumsum(1 + (runs > 0xFFFF)), starts, side="right")
    within = inside[picked[starts]] & (starts > 0)
    within &= inside[picked[starts - 1]]
    return picked[starts[within]]
