"""Bytes to text: which encoding, and how many characters had to be replaced."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

# ISO-2022 text is all ASCII bytes, so that it would pass for UTF-8.
ISO_2022_ESCAPES = (b"\x1b$", b"\x1b(")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SNIFFED_BYTES = 1024
BINARY_STARTS = (
    b"%PDF-",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"PK\x03\x04",
    b"\x1f\x8b",
    b"\x7fELF",
    b"OggS",
    b"BZh",
)
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text, the name of its encoding, and how many malformed places became U+FFFD."""

    text: str
    encoding: str
    replaced: int = 0


def decode(data: bytes, charset: str | None = None, *, is_html: bool = False) -> Decoded:
    """Decode by byte order mark, then as UTF-8 where it is valid, then by the stated charset, then by detection.

    Valid UTF-8 goes before the stated charset because servers state Latin-1 for UTF-8 far more often than other text
    is valid UTF-8 by chance. `is_html` lets detection read `<meta charset>`.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _replacing(data[len(mark) :], encoding)
    if not any(escape in data for escape in ISO_2022_ESCAPES):
        try:
            return Decoded(data.decode("utf-8"), "utf-8")
        except UnicodeDecodeError:
            pass
    if (stated := _known(charset)) and stated != "utf-8":
        try:
            return Decoded(data.decode(stated), stated)
        except UnicodeDecodeError:
            pass
    return _replacing(data, _detected(data, is_html))


def looks_binary(data: bytes) -> bool:
    """Whether the first bytes are those of a known binary format, or hold NUL where UTF-16 is not announced."""
    start = data[:SNIFFED_BYTES]
    if start.startswith(BINARY_STARTS):
        return True
    return b"\0" in start and not start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def _known(charset: str | None) -> str | None:
    """Python's codec for a charset as the HTML standard reads its name; None where it is not known."""
    from resiliparse.parse.encoding import map_encoding_to_html5

    mapped = map_encoding_to_html5(charset, fallback_utf8=False) if charset else None
    try:
        return codecs.lookup(mapped).name if mapped else None
    except LookupError:
        return None


def _detected(data: bytes, is_html: bool) -> str:
    from resiliparse.parse.encoding import detect_encoding

    return _known(detect_encoding(data, from_html_meta=is_html)) or "utf-8"


def _replacing(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, errors="replace")
    present = data.count(REPLACEMENT.encode(encoding)) if encoding.startswith("utf") else 0
    return Decoded(text, encoding, max(0, text.count(REPLACEMENT) - present))
