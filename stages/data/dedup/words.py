"""Words of many texts at once, as 64-bit hashes, without building a string for any of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 16
# Characters a block: its tables of 8 bytes a character stay in the cache.
BLOCK_CHARACTERS = 1 << 17

# Han and kana are written without blanks, so each sign is a word; otherwise a word is a run of letters and digits.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+")
_ASCII_BLANKS = bytes(32 if code < 128 and chr(code).isspace() else code for code in range(256))
_OUTSIDE, _RUN, _ALONE = 0, 1, 2
_BASE = 0x9E3779B97F4A7C15 | 1
_MIX = np.uint64(0xBF58476D1CE4E5B9)

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]
Classes = npt.NDArray[np.uint8]


def exact_digest(text: str) -> bytes:
    """Digest of the text in Unicode's composed form with every run of blanks as one."""
    return hashlib.blake2b(composed(text), digest_size=DIGEST_BYTES).digest()


def composed(text: str) -> bytes:
    """The text in Unicode's composed form with every run of blanks as one and none at the ends, as UTF-8."""
    if not text.isascii():
        return " ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8", "surrogatepass")
    data = text.encode("ascii").translate(_ASCII_BLANKS)
    # Each round halves the runs, which beats splitting into words and joining them by far.
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.strip(b" ")


def normalised_words(text: str) -> list[str]:
    """Words without regard to case, punctuation, layout and compatibility forms: what `word_hashes` hashes."""
    return _WORD.findall(_normalised(text))


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    """Hashes of all words of `texts`, one text after the other, and the number of words of each.

    The texts must be all ASCII or all not. Shapes [n words], [n texts].
    """
    ascii_only = texts[0].isascii() if texts else True
    hash_block = _hash_ascii if ascii_only else _hash_unicode
    counts = np.zeros(len(texts), dtype=np.int64)
    found: list[Hashes] = []
    for owners, pieces in _blocks(texts, str if ascii_only else _normalised):
        starts, hashes = hash_block("\0".join(pieces))
        edges = np.cumsum([0, *(len(piece) + 1 for piece in pieces)])
        np.add.at(counts, owners, np.diff(np.searchsorted(starts, edges)))
        found.append(hashes)
    return np.concatenate(found) if found else np.zeros(0, dtype=np.uint64), counts


def _normalised(text: str) -> str:
    # By line, since one sign that is not composed makes the whole string slow, and no sign joins with a line's end.
    return "\n".join([unicodedata.normalize("NFKC", line) for line in text.split("\n")]).casefold()


def _blocks(texts: Sequence[str], normalise: Callable[[str], str]) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces of the texts in order, at most `BLOCK_CHARACTERS` a block, with the number of the text of each."""
    owners: list[int] = []
    pieces: list[str] = []
    size = 0
    for number, text in enumerate(texts):
        for piece in _pieces(normalise(text)):
            if size + len(piece) + 1 > BLOCK_CHARACTERS:
                yield owners, pieces
                owners, pieces, size = [], [], 0
            owners.append(number)
            pieces.append(piece)
            size += len(piece) + 1
    if pieces:
        yield owners, pieces


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces of bounded length, cut at blanks where there are any."""
    limit = BLOCK_CHARACTERS - 1
    start = 0
    while len(text) - start > limit:
        end = text.rfind(" ", start + 1, start + limit)
        end = end if end > start else start + limit
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def _hash_ascii(block: str) -> tuple[Counts, Hashes]:
    codes = np.frombuffer(block.encode("ascii").translate(_ascii_table()), dtype=np.uint8)
    inside = np.zeros(len(codes) + 2, dtype=np.bool_)
    np.not_equal(codes, 0, out=inside[1:-1])
    edges = np.flatnonzero(inside[1:] != inside[:-1])
    return edges[::2], _hash_spans(codes, edges[::2], edges[1::2])


def _hash_unicode(block: str) -> tuple[Counts, Hashes]:
    codes = np.frombuffer(block.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    classes = np.zeros(len(codes) + 2, dtype=np.uint8)
    classes[1:-1] = _classes()[codes]
    runs, alone = classes == _RUN, classes[1:-1] == _ALONE
    starts = np.flatnonzero(alone | (runs[1:-1] & ~runs[:-2]))
    ends = np.flatnonzero(alone | (runs[1:-1] & ~runs[2:])) + 1
    return starts, _hash_spans(codes, starts, ends)


def _hash_spans(codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint32], starts: Counts, ends: Counts) -> Hashes:
    """Hash of each span of codes: its polynomial in `_BASE` modulo 2^64, read off one running sum, then mixed."""
    powers, inverses = _powers()
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.multiply(codes, powers[: len(codes)], out=sums[1:])
    np.cumsum(sums, out=sums)
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


@cache
def _powers() -> tuple[Hashes, Hashes]:
    """Powers of `_BASE` and of its inverse modulo 2^64, one a character of a block."""

    def powers(base: int) -> Hashes:
        factors = np.full(BLOCK_CHARACTERS, base, dtype=np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return powers(_BASE), powers(pow(_BASE, -1, 1 << 64))


@cache
def _ascii_table() -> bytes:
    """The lower-case letter or digit of every byte, 0 for what is outside words."""
    signs = (chr(code) for code in range(128))
    return bytes(ord(sign.casefold()) if _WORD.match(sign) else 0 for sign in signs) + bytes(128)


@cache
def _classes() -> Classes:
    """Of every Unicode code point whether it is outside words, part of one, or one alone."""
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    classes = np.full(len(every), _OUTSIDE, dtype=np.uint8)
    for match in re.finditer(r"\w+", every):
        classes[match.start() : match.end()] = _RUN
    for match in re.finditer(f"[{_UNSPACED}]+", every):
        classes[match.start() : match.end()] = _ALONE
    return classes
