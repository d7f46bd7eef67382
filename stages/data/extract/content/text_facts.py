"""What a block's text alone tells: punctuation, capitals, digits, phrases, and its words."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from longcat.stages.data.extract.content.phrases import TOPICS, topics

PUNCTUATION = re.compile(r"[.,;:!?。、，！？]")
CAPITALS, DIGITS, MARKS = string.ascii_uppercase.encode(), string.digits.encode(), b".,;:!?"
ENDINGS = frozenset(".!?:;。！？\"”')")
SPECIAL = re.compile(
    r"©|all rights reserved|\bcookies?\b|privacy policy|terms of|log ?in|sign (?:in|up)|subscribe", re.I
)
# Every text matched by `SPECIAL` contains one of these, after lower-casing and normalisation.
SPECIAL_WORDS = (
    "©", "all rights reserved", "cookie", "privacy policy", "terms of", "login", "log in", "sign in", "sign up",
    "subscribe",
)  # fmt: skip
CURRENCY = re.compile(r"[$€£¥]\s?\d|\d\s?(?:€|kr|zł|USD|EUR)")
DATE = re.compile(r"\b(?:19|20)\d\d\b|\d{1,2}[./:]\d{1,2}")
WORD = re.compile(r"\w+")
BEGINNING, SPECIAL_CHARACTERS, PHRASE_CHARACTERS = 200, 400, 120
# Longer texts recur less, and would fill the memory.
SHORT_CHARACTERS, CACHED = 200, 1 << 13


class TextFacts(NamedTuple):
    """`punctuation` counts marks; the other `values` have the order of `_facts`; `words` are those of short texts."""

    punctuation: int
    values: tuple[float, ...]
    words: tuple[str, ...]


VALUES = 6 + len(TOPICS) + 1
_NO_TOPICS = (0.0,) * (len(TOPICS) + 1)


def text_facts(text: str) -> TextFacts:
    """Facts of one text, which is not empty; those of short texts are remembered, as they recur on a site."""
    return _remembered(text) if len(text) <= SHORT_CHARACTERS else _facts(text)


def _facts(text: str) -> TextFacts:
    start = text[:BEGINNING]
    if text.isascii():
        data = text.encode()
        head = data[:BEGINNING]
        marks = len(data) - len(data.translate(None, MARKS))
        capitals = len(head) - len(head.translate(None, CAPITALS))
        digits = len(head) - len(head.translate(None, DIGITS))
    else:
        marks = len(PUNCTUATION.findall(text))
        capitals, digits = _number(str.isupper, start), _number(str.isdigit, start)
    small = text[:SPECIAL_CHARACTERS].lower()
    words = WORD.findall(small) if len(text) <= SHORT_CHARACTERS else []
    values = (
        text[-1] in ENDINGS,
        text[0].isupper(),
        capitals / len(start),
        digits / len(start),
        _is_special(text[:SPECIAL_CHARACTERS], small),
        digits > 0 and CURRENCY.search(start) is not None,
        *(_topics(small, words, digits) if len(text) <= PHRASE_CHARACTERS else _NO_TOPICS),
    )
    return TextFacts(marks, values, tuple(words))


_remembered = lru_cache(CACHED)(_facts)


def _topics(text: str, words: list[str], digits: int) -> tuple[float, ...]:
    """Whether a text mentions each of `TOPICS`, and a date."""
    found = topics(text, words)
    date = digits > 0 and DATE.search(text) is not None
    if not found:
        return (*_NO_TOPICS[:-1], float(date))
    return (*(float(number in found) for number in range(len(TOPICS))), float(date))


def _number(test: Callable[[str], bool], text: str) -> int:
    return sum(map(test, text))


def _is_special(text: str, small: str) -> bool:
    if not text.isascii():  # characters that match i and s case-insensitively
        small = small.replace("i\u0307", "i").replace("ı", "i").replace("ſ", "s")
    return any(map(small.__contains__, SPECIAL_WORDS)) and SPECIAL.search(text) is not None
