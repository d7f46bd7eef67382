"""Words of many texts at once, as 64-bit hashes, without building a string for any of them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.character_kinds import codes_of, text_of
from longcat.stages.data.text.script_words import has_unspaced, unwrapped, word_spans

DIGEST_BYTES = 16
# Characters per block: its tables of 8 bytes per character stay in the CPU cache.
BLOCK_CHARACTERS = 1 << 17

_WORD_SIGN = re.compile(r"\w")
_ASCII_BLANKS = bytes(32 if code < 128 and chr(code).isspace() else code for code in range(256))
HASH_BASE = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio; odd, so that it has an inverse
_MIX = np.uint64(0xBF58476D1CE4E5B9)

Hashes = npt.NDArray[np.uint64]
Counts = npt.NDArray[np.int64]


def exact_digest(text: str) -> bytes:
    """Digest of the text in NFC with whitespace runs collapsed."""
    return hashlib.blake2b(composed(text), digest_size=DIGEST_BYTES).digest()


def composed(text: str) -> bytes:
    """Text in NFC with whitespace runs collapsed and stripped, as UTF-8."""
    if not text.isascii():
        return " ".join(unicodedata.normalize("NFC", text).split()).encode("utf-8", "surrogatepass")
    data = text.encode("ascii").translate(_ASCII_BLANKS)
    # Each round halves the runs, which is much faster than splitting and joining.
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data.strip(b" ")


def normalised_words(text: str) -> list[str]:
    """Words normalised for case, punctuation, layout and compatibility forms, as hashed by `word_hashes`."""
    codes, _ = unwrapped(_normalised(text))
    normal = text_of(codes)
    return [normal[start:end] for start, end in zip(*map(list, word_spans(codes)), strict=True)]


def word_hashes(texts: Sequence[str]) -> tuple[Hashes, Counts]:
    """Concatenated word hashes of all `texts`, and number of words of each.

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
    # By line, since one decomposed character makes the whole string slow, and no character composes with a line end.
    return "\n".join([unicodedata.normalize("NFKC", line) for line in text.split("\n")]).casefold()


def _blocks(texts: Sequence[str], normalise: Callable[[str], str]) -> Iterator[tuple[list[int], list[str]]]:
    """Pieces of the texts in order, at most `BLOCK_CHARACTERS` per block, with the text index of each."""
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
    """Text in pieces of bounded length, split at spaces if possible."""
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
    codes = codes_of(block)
    if not has_unspaced(codes):
        starts, ends = word_spans(codes)
        return starts, _hash_spans(codes, starts, ends)
    codes, places = unwrapped(block)
    starts, ends = word_spans(codes)
    return places[starts], _hash_spans(codes, starts, ends)


def _hash_spans(codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint32], starts: Counts, ends: Counts) -> Hashes:
    """Hash of each span of codes: its polynomial in `HASH_BASE` modulo 2^64, read off one running sum, then mixed."""
    powers, inverses = powers_and_inverses(HASH_BASE, BLOCK_CHARACTERS)
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.multiply(codes, powers[: len(codes)], out=sums[1:])
    np.cumsum(sums, out=sums)
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    hashes ^= hashes >> np.uint64(32)
    hashes *= _MIX
    hashes ^= hashes >> np.uint64(29)
    return hashes


@cache
def powers_and_inverses(base: int, count: int) -> tuple[Hashes, Hashes]:
    """The first `count` powers of an odd base modulo 2^64, and of its inverse, from the power 0 on."""

    def powers(factor: int) -> Hashes:
        factors = np.full(count, factor, dtype=np.uint64)
        factors[0] = 1
        return np.cumprod(factors)

    return powers(base), powers(pow(base, -1, 1 << 64))


@cache
def _ascii_table() -> bytes:
    """Lower-case letter or digit of every byte, 0 for non-word bytes."""
    signs = (chr(code) for code in range(128))
    return bytes(ord(sign.casefold()) if _WORD_SIGN.match(sign) else 0 for sign in signs) + bytes(128)
