"""Pieces of texts whose ids gigatoken finds as `SPLIT` does, and lines for which it does not.

gigatoken has no scanner for `SPLIT`, only for `NEAREST`, which differs in one respect: no groups of Han and kana. Text
is therefore cut wherever `SPLIT` begins or ends such a group. `SPLIT` looks behind nowhere and ahead only in
`\\s+(?!\\S)`, so the pieces of a text have the ids of the whole text if

1. every cut is where a match of `SPLIT` ends, in whatever context: before and after a run of Han letters or of kana, as
   no other alternative contains them, except kana's prolonged sound mark; and after a line break before anything but
   white space;
2. the white space before such a group is cut before its last character, which `(?!\\S)` leaves over.

A line with a character of which this does not hold is encoded by the tokenizers library: Han and kana that are symbols
or numbers, a prolonged sound mark not after Han or kana, and characters that Unicode added lately, whose kind is not
the same in the two libraries.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]

# Kinds of characters; all ASCII characters are PLAIN.
PLAIN, HAN, KANA, PROLONGED, SPACE, HARD = range(6)

# Scripts.txt of Unicode 16: letters and marks of Han; of Hiragana and Katakana; the rest of the three scripts.
_HAN = (
    (0x3005, 0x3005), (0x303B, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFA6D), (0xFA70, 0xFAD9),
    (0x16FE3, 0x16FE3), (0x16FF0, 0x16FF1), (0x20000, 0x2A6DF), (0x2A700, 0x2B739), (0x2B740, 0x2B81D),
    (0x2B820, 0x2CEA1), (0x2CEB0, 0x2EBE0), (0x2EBF0, 0x2EE5D), (0x2F800, 0x2FA1D), (0x30000, 0x3134A),
    (0x31350, 0x323AF),
)  # fmt: skip
_KANA = (
    (0x3041, 0x3096), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FD, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF6F),
    (0xFF71, 0xFF9D), (0x1AFF0, 0x1AFF3), (0x1AFF5, 0x1AFFB), (0x1AFFD, 0x1AFFE), (0x1B000, 0x1B122),
    (0x1B132, 0x1B132), (0x1B150, 0x1B152), (0x1B155, 0x1B155), (0x1B164, 0x1B167),
)  # fmt: skip
_SYMBOLS = (
    (0x2E80, 0x2E99), (0x2E9B, 0x2EF3), (0x2F00, 0x2FD5), (0x3007, 0x3007), (0x3021, 0x3029), (0x3038, 0x303A),
    (0x32D0, 0x32FE), (0x3300, 0x3357), (0x16FE2, 0x16FE2), (0x1F200, 0x1F200),
)  # fmt: skip
# Letters, marks and numbers of Unicode 17, which gigatoken 0.10 knows and tokenizers 0.23 does not.
_NEW = (
    (0x088F, 0x088F), (0x0C5C, 0x0C5C), (0x0CDC, 0x0CDC), (0x1ACF, 0x1ADD), (0x1AE0, 0x1AEB), (0xA7CE, 0xA7CF),
    (0xA7D2, 0xA7D2), (0xA7D4, 0xA7D4), (0xA7F1, 0xA7F1), (0x10940, 0x10959), (0x10EC5, 0x10EC7), (0x10EFA, 0x10EFB),
    (0x11B60, 0x11B67), (0x11DB0, 0x11DDB), (0x11DE0, 0x11DE9), (0x16EA0, 0x16EB8), (0x16EBB, 0x16ED3),
    (0x16FF2, 0x16FF6), (0x187F8, 0x187FF), (0x18D09, 0x18D1E), (0x18D80, 0x18DF2), (0x1E6C0, 0x1E6DE),
    (0x1E6E0, 0x1E6F5), (0x1E6FE, 0x1E6FF), (0x2B73A, 0x2B73F), (0x2CEA2, 0x2CEAD), (0x323B0, 0x33479),
)  # fmt: skip
_SPACES = (
    (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000),
)  # fmt: skip
_PROLONGED_MARK = 0x30FC


_GROUP = np.array([0, 1, 2, 2, 0, 0], dtype=np.uint8)  # of a kind: none, Han, kana
_BREAK = np.isin(np.arange(256), (0x0A, 0x0D))
_BLANK = np.isin(np.arange(256), (0x09, 0x0B, 0x0C, 0x20))


@dataclass(frozen=True)
class Pieces:
    """Pieces that together are the texts: piece i is `data[bounds[i] : bounds[i + 1]]`, none is of two texts.

    `firsts` [n texts + 1] is the first piece of every text, `hard` [n pieces] says which gigatoken must not encode.
    """

    data: Bytes
    bounds: Places
    firsts: Places
    hard: npt.NDArray[np.bool_]


def cut(texts: Sequence[bytes], *, groups: bool) -> Pieces:
    """Cut UTF-8 texts. Without `groups`, for an expression that gigatoken has, every text is one piece."""
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    ends = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in texts], out=ends[1:])
    at, stop, kind = _special(data, _kinds(groups))
    hard = at[kind == HARD]
    lines, cuts = ends, at[:0]
    if groups and len(at):
        cuts, ambiguous = _group_bounds(data, ends, at, stop, kind)
        hard = np.concatenate((hard, ambiguous))
        if len(hard):
            lines = _line_starts(data, ends, at[kind == SPACE])
    left = _distinct(np.searchsorted(lines, hard, side="right") - 1)
    kept = cuts[~np.isin(np.searchsorted(lines, cuts, side="right") - 1, left)]
    bounds = _distinct(np.concatenate((ends, kept, lines[left], lines[left + 1])))
    is_hard = np.isin(np.searchsorted(lines, bounds[:-1], side="right") - 1, left)
    return Pieces(data, bounds, np.searchsorted(bounds, ends), is_hard)


def _distinct(places: Places) -> Places:
    """Distinct places in order; `numpy.unique` hashes them first, which takes longer here."""
    places = np.sort(places)
    return places[np.flatnonzero(np.diff(places, prepend=-1))]


def _special(data: Bytes, kinds: npt.NDArray[np.uint8]) -> tuple[Places, Places, npt.NDArray[np.uint8]]:
    """First byte, end and kind of every character that is not plain."""
    at = np.flatnonzero(data >= 0xC0)
    lead = data[at].astype(np.int32)
    width = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    code = lead & (0x7F >> width)
    for step in (1, 2, 3):
        more = width > step
        code[more] = code[more] << 6 | data[at[more] + step] & 0x3F
    kind = kinds[code]
    chosen = kind != PLAIN
    return at[chosen], (at + width)[chosen], kind[chosen]


def _group_bounds(
    data: Bytes, ends: Places, at: Places, stop: Places, kind: npt.NDArray[np.uint8]
) -> tuple[Places, Places]:
    """Where to cut around groups of Han and of kana, and the prolonged sound marks that may be in one or not."""
    inside = ends[np.searchsorted(ends, at)] != at
    joined = np.zeros(len(at) + 1, dtype=np.bool_)  # with the special character before it
    joined[1:-1] = (at[1:] == stop[:-1]) & inside[1:]
    group = _GROUP[kind]
    before, after = np.zeros_like(group), np.zeros_like(group)
    before[1:], after[:-1] = group[:-1], group[1:]
    opens = (group > 0) & ~(joined[:-1] & (before == group))
    closes = (group > 0) & ~(joined[1:] & (after == group))
    follows_han = joined[:-1] & (before == _GROUP[HAN])
    spaced = opens[1:] & joined[1:-1] & (kind[:-1] == SPACE)
    blank = opens & inside & _BLANK[data[at - 1]]
    cuts = np.concatenate((at[opens], stop[closes], at[:-1][spaced], at[blank] - 1))
    return cuts, at[opens & (kind == PROLONGED) & ~follows_han]


def _line_starts(data: Bytes, ends: Places, spaces: Places) -> Places:
    """Starts and ends of texts, and places after a line break and before anything but white space."""
    after = np.flatnonzero(_BREAK[data]) + 1
    after = after[after < len(data)]
    after = after[~(_BREAK | _BLANK)[data[after]]]
    return _distinct(np.concatenate((ends, np.setdiff1d(after, spaces, assume_unique=True))))


@cache
def _kinds(groups: bool) -> npt.NDArray[np.uint8]:
    """Kind of every code point. Without `groups` only hard ones are told apart."""
    kinds = np.full(sys.maxunicode + 1, PLAIN, dtype=np.uint8)
    assigned = 0x33480  # nothing is from here to the tags of plane 14
    kinds[:assigned][[unicodedata.category(chr(code)) == "Cn" for code in range(assigned)]] = HARD
    kinds[assigned:0xE0000] = HARD
    _fill(kinds, _NEW, HARD)
    if groups:
        for ranges, kind in ((_HAN, HAN), (_KANA, KANA), (_SYMBOLS, HARD), (_SPACES, SPACE)):
            _fill(kinds, ranges, kind)
        kinds[_PROLONGED_MARK] = PROLONGED
    return kinds


def _fill(kinds: npt.NDArray[np.uint8], ranges: Sequence[tuple[int, int]], kind: int) -> None:
    for first, last in ranges:
        kinds[first : last + 1] = kind
