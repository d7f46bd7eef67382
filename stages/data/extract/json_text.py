"""Parsing of JSON that is almost valid: what Python's and JavaScript's writers make of numbers and characters."""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

# Beyond it a whole number has no exact form in orjson, which then gives a float.
EXACT_DIGITS = 18
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
LARGE = 2.0**63


def parse_json(text: bytes | str) -> tuple[Any, int]:
    """Value of a JSON text, and number of lone surrogates replaced by U+FFFD.

    NaN and infinities, which JSON has not, become null; whole numbers beyond 64 bits become their digits as text.

    Raises:
        ValueError: the text is not JSON; the message says why.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if not _is_extended(error, text):
            raise
        return _parse_slowly(text)
    return _parse_slowly(text) if _has_large_number(value) else (value, 0)


def _is_extended(error: Exception, text: bytes | str) -> bool:
    """Whether the slower parser may accept what orjson refused; most damaged lines are not worth it."""
    words = ("NaN", "Infinity", "\\u") if isinstance(text, str) else (b"NaN", b"Infinity", b"\\u")
    return any(word in text for word in words)  # type: ignore[operator]


def _parse_slowly(text: bytes | str) -> tuple[Any, int]:
    decoded = text.decode() if isinstance(text, bytes) else text
    try:
        value = json.loads(decoded, parse_int=_whole_number, parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    replaced = _Replaced()
    return replaced.clean(value), replaced.count


def _whole_number(digits: str) -> int | str:
    if len(digits) > EXACT_DIGITS + 2:
        return digits
    number = int(digits)
    return number if -(1 << 63) <= number < 1 << 64 else digits


def _has_large_number(value: Any) -> bool:
    """Whether a float may have been a whole number beyond 64 bits."""
    if isinstance(value, float):
        return abs(value) >= LARGE
    if isinstance(value, dict):
        return any(_has_large_number(item) for item in value.values() if not isinstance(item, str))
    return isinstance(value, list) and any(_has_large_number(item) for item in value if not isinstance(item, str))


class _Replaced:
    """Replaces lone surrogates, which have no UTF-8 form, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def clean(self, value: Any) -> Any:
        if isinstance(value, str):
            if not LONE_SURROGATE.search(value):
                return value
            self.count += len(LONE_SURROGATE.findall(value))
            return LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
        if isinstance(value, dict):
            return {self.clean(name): self.clean(item) for name, item in value.items()}
        return [self.clean(item) for item in value] if isinstance(value, list) else value
