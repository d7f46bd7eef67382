"""Text as a stream of word hashes, ignoring case, punctuation, layout and line breaks."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.character_kinds import CUT, SINGLE, kinds_in, text_of
from longcat.stages.data.text.characters import marks
from longcat.stages.data.text.hashed_words import HASH_BASE
from longcat.stages.data.text.script_words import separated, unwrapped
from longcat.stages.data.text.script_words import word_spans as unspaced_spans

Hashes = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

# Maximum cached distinct words; the cache is cleared beyond.
MAX_REMEMBERED = 1 << 20
ABSENT = -1

_MARKS = marks()
# A run of letters, their marks and digits.
_WORD = re.compile(f"[^\\W_](?:[^\\W_]|[{_MARKS}])*")
_ASCII_WORD = re.compile("[A-Za-z0-9]+")
# What separates words, ASCII apart; marks belong to it where no letter is before them.
_SPLIT = re.compile(
    f"[^\\x00-\\x7f\\w{_MARKS}]+[{_MARKS}]*|[\\x00-\\x2f\\x3a-\\x40\\x5b-\\x60\\x7b-\\x7f][{_MARKS}]+|\\A[{_MARKS}]+"
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_PUNCTUATION = re.compile(f"[^\\w\\s{_MARKS}]|_")
# Between blanks; lines that may be wrapped within a word of a script without blanks are in one.
_CHUNK = re.compile(r"\S+(?:(?<=[^\x00-\x7f])\n[^\S\n]*(?=[^\x00-\x7f])\S+)*")
# Lower case for letters, a blank for every other ASCII byte; bytes of other characters are kept.
_LOWER = bytes(
    byte + 32 if 65 <= byte <= 90 else byte if byte >= 128 or chr(byte).isalnum() else 32 for byte in range(256)
)


def words_of(text: str) -> list[bytes]:
    """Words of a text in UTF-8: NFKC, case folded, without punctuation."""
    if text.isascii():
        return text.encode().translate(_LOWER).split()
    folded = _folded(_INVISIBLE.sub("", text))
    kinds = kinds_in(folded)
    if kinds & (CUT | SINGLE):
        folded = separated(text_of(unwrapped(folded)[0]), kinds)
    return _SPLIT.sub(" ", folded).encode("utf-8", "surrogatepass").translate(_LOWER).split()


def without_punctuation(text: str) -> str:
    """Text with punctuation deleted, so that separated parts become one word."""
    return _PUNCTUATION.sub("", unicodedata.normalize("NFKC", text))


def word_spans(text: str) -> list[tuple[int, int]]:
    """Character span (start, end) of each of `words_of(text)`.

    Words whose place is lost by normalisation get the span of the whole chunk between spaces.
    """
    spans: list[tuple[int, int]] = []
    for chunk in _CHUNK.finditer(text):
        count = len(words_of(chunk[0]))
        start = chunk.start()
        found = [(start + first, start + last) for first, last in _spans_within(chunk[0])]
        spans.extend(found if len(found) == count else [chunk.span()] * count)
    return spans


def _spans_within(chunk: str) -> list[tuple[int, int]]:
    if chunk.isascii():
        return [word.span() for word in _ASCII_WORD.finditer(chunk)]
    if not kinds_in(_folded(chunk)) & (CUT | SINGLE):
        return [word.span() for word in _WORD.finditer(chunk)]
    # The characters normalised one by one, with the place of each.
    forms = [(_folded(sign), at) for at, sign in enumerate(chunk) if not _INVISIBLE.match(sign)]
    codes, kept = unwrapped("".join(form for form, _ in forms).replace("_", " "))
    places = np.repeat([at for _, at in forms], [len(form) for form, _ in forms])[kept]
    starts, ends = unspaced_spans(codes)
    return list(zip(places[starts].tolist(), (places[ends - 1] + 1).tolist(), strict=True))


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


@dataclass(frozen=True, slots=True)
class WordStream:
    """Words of a text: hashes, and indices in the vocabulary (`ABSENT` for others); shape [n words]."""

    hashes: Hashes
    numbers: Numbers

    def __len__(self) -> int:
        return len(self.hashes)


class Lexicon:
    """Converts texts to word streams; each distinct word is hashed once."""

    def __init__(self, vocabulary: Hashes) -> None:
        """`vocabulary`: sorted hashes of indexed words."""
        self._numbers_of = {value: number for number, value in enumerate(vocabulary.tolist())}
        self._forget()

    def _forget(self) -> None:
        self._places: dict[bytes, int] = {}
        self._hashes = np.zeros(1 << 12, dtype=np.uint64)
        self._numbers = np.zeros(1 << 12, dtype=np.int64)

    def read(self, text: str) -> WordStream:
        """Word stream of a text."""
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
    """Hash of every word, shape [n words]."""
    return np.fromiter(map(hash_word, words), dtype=np.uint64, count=len(words))


class NgramHasher:
    """Hashes of n-grams of a sequence of word hashes, for any n.

    The hash of n words w is sum(w[i] * b^(n-1-i)) modulo 2^64. Those of 2, 4, 8, ... words are computed by doubling,
    and other lengths from these, so that n = 13 takes five steps without joining text.
    """

    def __init__(self, hashes: Hashes) -> None:
        self.words = hashes
        self._powers = [hashes]

    def of(self, size: int) -> Hashes:
        """Shape [n words - size + 1]; empty for a shorter sequence."""
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
    return np.uint64(pow(HASH_BASE, exponent, 1 << 64))
