"""A text as a stream of word hashes, over the whole of it: case, punctuation, layout and line breaks say nothing."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

# Distinct words that are remembered; beyond it the memory is emptied, so that it stays bounded.
MAX_REMEMBERED = 1 << 20
ABSENT = -1

# Han and kana are written without blanks, so each sign is a word; otherwise a word is a run of letters and digits.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")
_ASCII_WORD = re.compile("[A-Za-z0-9]+")
_SPLIT = re.compile(f"[{_UNSPACED}]|[^\\x00-\\x7f\\w]")
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_CHUNK = re.compile(r"\S+")
# Lower case for letters, a blank for every other ASCII byte; the bytes of other characters stay.
_LOWER = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in range(256)
)
_BASE = 0x9E3779B97F4A7C15


def words_of(text: str) -> list[bytes]:
    """The words of a text in UTF-8: NFKC, case folded, without punctuation."""
    if text.isascii():
        return text.encode().translate(_LOWER).split()
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    spaced = _SPLIT.sub(lambda match: f" {match[0]} " if match[0].isalnum() else " ", folded)
    return spaced.encode("utf-8", "surrogatepass").translate(_LOWER).split()


def without_punctuation(text: str) -> str:
    """The text with its punctuation deleted, so that what it parted is one word."""
    return _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each of `words_of(text)` stands in the text: first character and the one after the last.

    Words whose characters change in number by normalisation get the span of the whole run between blanks.
    """
    spans: list[tuple[int, int]] = []
    for chunk in _CHUNK.finditer(text):
        count = len(words_of(chunk[0]))
        pattern = _ASCII_WORD if chunk[0].isascii() else _WORD
        found = [(chunk.start() + at.start(), chunk.start() + at.end()) for at in pattern.finditer(chunk[0])]
        spans.extend(found if len(found) == count else [chunk.span()] * count)
    return spans


@dataclass(frozen=True, slots=True)
class WordStream:
    """The words of a text: their hashes, and their numbers in the vocabulary (`ABSENT` for others); shape [n words]."""

    hashes: Hashes
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.hashes)


class Lexicon:
    """Gives texts as word streams; each distinct word is hashed once."""

    def __init__(self, vocabulary: Hashes) -> None:
        """`vocabulary`: sorted hashes of the words that have numbers."""
        self._numbers_of = {value: number for number, value in enumerate(vocabulary.tolist())}
        self._forget()

    def _forget(self) -> None:
        self._places: dict[bytes, int] = {}
        self._hashes = np.zeros(1 << 12, dtype=np.uint64)
        self._numbers = np.zeros(1 << 12, dtype=np.int64)

    def read(self, text: str) -> WordStream:
        """The word stream of a text."""
        words = words_of(text)
        if len(self._places) > MAX_REMEMBERED:
            self._forget()
        for word in set(words).difference(self._places):
            self._learn(word)
        places = np.fromiter(map(self._places.__getitem__, words), dtype=np.int64, count=len(words))
        return WordStream(self._hashes[places], self._numbers[places])

    def _learn(self, word: bytes) -> None:
        place = len(self._places)
        if place == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
            self._numbers = np.concatenate([self._numbers, np.zeros_like(self._numbers)])
        value = hash_word(word)
        self._places[word] = place
        self._hashes[place] = value
        self._numbers[place] = self._numbers_of.get(value, ABSENT)


def hash_word(word: bytes) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(word, digest_size=8).digest(), "little")


def hash_words(words: list[bytes]) -> Hashes:
    """The hash of every word, shape [n words]."""
    return np.fromiter(map(hash_word, words), dtype=np.uint64, count=len(words))


class NgramHasher:
    """Hashes of the n-grams of one stretch of word hashes, for any n.

    The hash of n words w is sum(w[i] * b^(n-1-i)) modulo 2^64. Those of 2, 4, 8, ... words come from the ones of half
    as many, and any other length from these, so that thirteen words cost five steps and no text is put together.
    """

    def __init__(self, hashes: Hashes) -> None:
        self.words = hashes
        self._powers = [hashes]

    def of(self, size: int) -> Hashes:
        """Shape [n words - size + 1]; empty for a shorter stretch."""
        count = len(self._powers[0]) - size + 1
        if count <= 0:
            return np.zeros(0, dtype=np.uint64)
        total: Hashes | None = None
        done = 0
        for level in reversed(range(size.bit_length())):
            if size >> level & 1:
                piece = self._doubled(level)[done : done + count]
                total = piece if total is None else total * _power(1 << level) + piece
                done += 1 << level
        return total if total is not None else np.zeros(0, dtype=np.uint64)

    def _doubled(self, level: int) -> Hashes:
        while len(self._powers) <= level:
            half = self._powers[-1]
            step = 1 << (len(self._powers) - 1)
            self._powers.append(half[:-step] * _power(step) + half[step:])
        return self._powers[level]


def _power(exponent: int) -> np.uint64:
    return np.uint64(pow(_BASE, exponent, 1 << 64))
