"""Detection of UTF-16 and UTF-32 text without a byte order mark."""

from __future__ import annotations

import re
from unicodedata import category

SAMPLE_BYTES = 4096
# Text of one byte per character has more of these bytes than UTF-16 text. No digits: 30 is the high byte of kana.
ASCII_TEXT = re.compile(rb"[A-Za-z .,\n\r\t-]")
MAX_ASCII_SHARE = 0.55
MIN_CONTROL_SHARE = 0.02
MAX_BAD_SHARE = 0.02
CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
WHITESPACE = "\t\n\f\r"
UNUSUAL = frozenset(("Cc", "Cn", "Co", "Cs"))
# Characters whose low byte is 0 are as rare as any other, but for these.
COMMON_ZERO_BYTES = "\u3000一最가"


def wide_encoding(data: bytes) -> str | None:
    """`utf-16le`, `utf-16be`, `utf-32le` or `utf-32be` if the bytes look like text in it and like no other text."""
    sample = data[: min(SAMPLE_BYTES, len(data) // 2 * 2)]
    if len(CONTROLS.findall(sample)) < max(1, MIN_CONTROL_SHARE * len(sample)):
        return None
    if len(ASCII_TEXT.findall(sample)) > MAX_ASCII_SHARE * len(sample):
        return None
    found: tuple[str, ...] = ("utf-16le", "utf-16be")
    four = sample[: len(sample) // 4 * 4]
    if four and not any(four[3::4]) and max(four[2::4]) <= 0x10:
        found = ("utf-32le",)
    elif four and not any(four[0::4]) and max(four[1::4]) <= 0x10:
        found = ("utf-32be",)
    scores = {encoding: score for encoding in found if (score := _score(sample, encoding)) is not None}
    return max(scores, key=scores.__getitem__) if scores else None


def _score(sample: bytes, encoding: str) -> float | None:
    """Share of ASCII characters, less the share of characters that text does not have; None if these are too many."""
    text = sample.decode(encoding, errors="replace").rstrip("\ufffd")
    bad = sum(map(_is_bad, text))
    if not text or bad > MAX_BAD_SHARE * len(text):
        return None
    return (sum(map(str.isascii, text)) - bad) / len(text)


def _is_bad(character: str) -> bool:
    if character in WHITESPACE or character in COMMON_ZERO_BYTES:
        return False
    return character == "\ufffd" or ord(character) & 0xFF == 0 or category(character) in UNUSUAL
