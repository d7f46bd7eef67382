"""Decoding of bytes to text, with encoding and number of replaced characters."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from longcat.stages.data.extract.charset.decoders import decode_as
from longcat.stages.data.extract.charset.labels import encoding_name
from longcat.stages.data.extract.charset.meta import meta_encoding
from longcat.stages.data.extract.charset.wide import wide_encoding
from longcat.stages.data.extract.records import Rejected

# ISO-2022-JP consists of ASCII bytes, so it would be accepted as UTF-8.
ISO_2022_JP = re.compile(rb"\x1b(?:\$[@B]|\(I)")
# What the encodings shift with that browsers refuse to decode: ISO-2022-KR and -CN, HZ.
REFUSED_SHIFTS = re.compile(rb"\x1b\$|\x0e|~\{")
# Bytes of UTF-16 and of shifted encodings, which may be valid UTF-8.
NOT_PLAIN = (b"\0", b"\x1b", b"\x0e", b"~{")
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
# UTF-32 first: its little-endian mark starts with that of UTF-16.
WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32le"),
    (codecs.BOM_UTF32_BE, "utf-32be"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), *WIDE_MARKS)
# Names of the detector that are no labels of the Standard.
DETECTED_NAMES = {
    "cp949": "euc-kr",
    "uhc": "euc-kr",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "mac-cyrillic": "x-mac-cyrillic",
}
# Valid multi-byte sequences per malformed one that make text UTF-8, whatever is stated, and if UTF-8 is stated. Text in
# other encodings has less than one.
UTF8_EVIDENCE, STATED_UTF8_EVIDENCE = 4, 1
# Malformed sequences below which stated UTF-8 is kept: too few to tell another encoding by.
MIN_AGAINST_UTF8 = 3
# Malformed sequences, and C1 controls, per character above ASCII with which a stated encoding is kept.
MAX_MISFIT = 0.1
C1_CONTROLS = re.compile("[\x80-\x84\x86-\x9f]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """Text, name of its encoding in the Encoding Standard, and number of malformed sequences replaced by U+FFFD."""

    text: str
    encoding: str
    replaced: int = 0


def decode(data: bytes, charset: str | None = None, *, is_html: bool = False) -> Decoded:
    """Decode by byte order mark, as UTF-8 if (nearly) valid, then by what is stated, then by detection.

    UTF-8 takes precedence because servers state Latin-1 for UTF-8 far more often than other text is valid UTF-8 by
    chance. What is stated is `charset` and, if `is_html`, `<meta>`; it is kept where all but a few sequences are valid.
    Labels mean what they mean in browsers.

    Raises:
        Rejected: `unsupported_encoding` for the encodings that browsers refuse (ISO-2022-KR, ISO-2022-CN, HZ).
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return decode_exactly(data[len(mark) :], encoding)
    if not any(sign in data for sign in NOT_PLAIN):
        try:
            return Decoded(data.decode("utf-8"), "utf-8")
        except UnicodeDecodeError:
            pass
    stated = encoding_name(charset)
    meta = meta_encoding(data) if is_html else None
    if (stated or meta) == "replacement" and REFUSED_SHIFTS.search(data):
        raise Rejected("unsupported_encoding", f"{charset or 'the <meta> element'}: browsers refuse this encoding")
    if wide := wide_encoding(data):
        return decode_exactly(data, wide)
    if data.isascii():
        return decode_exactly(data, "iso-2022-jp" if ISO_2022_JP.search(data) else "utf-8")
    return _by_evidence(data, stated, meta)


def decode_exactly(data: bytes, encoding: str) -> Decoded:
    """Decode in an encoding named by the Standard, whatever the bytes are."""
    text, replaced = decode_as(data, encoding)
    return Decoded(text, encoding, replaced)


def looks_binary(data: bytes) -> bool:
    """Whether the first bytes are those of a known binary format, or contain NUL and are not UTF-16 or UTF-32."""
    start = data[:SNIFFED_BYTES]
    if start.startswith(BINARY_STARTS):
        return True
    marked = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE))
    return b"\0" in start and not marked and wide_encoding(start) is None


def _by_evidence(data: bytes, stated: str | None, meta: str | None) -> Decoded:
    """The first candidate that fits, else that with the fewest misfits."""
    utf8 = decode_exactly(data, "utf-8")
    valid = _above_ascii(utf8.text) - utf8.replaced
    says_utf8 = (stated or meta) == "utf-8"
    wanted = STATED_UTF8_EVIDENCE if says_utf8 else UTF8_EVIDENCE
    if (valid and valid >= wanted * utf8.replaced) or (says_utf8 and utf8.replaced < MIN_AGAINST_UTF8):
        return utf8
    misfits: list[tuple[float, Decoded]] = []
    for encoding in _candidates(data, stated, meta):
        found = decode_exactly(data, encoding)
        misfit = (found.replaced + len(C1_CONTROLS.findall(found.text))) / max(1, _above_ascii(found.text))
        if misfit <= MAX_MISFIT:
            return found
        misfits.append((misfit, found))
    return min(misfits, key=lambda pair: pair[0])[1]


def _candidates(data: bytes, stated: str | None, meta: str | None) -> Iterator[str]:
    """Encodings other than UTF-8, the most likely first; windows-1252 last, which has a character for every byte."""
    named = [stated, meta]
    if stated == "windows-1252" and meta not in (None, stated) and _detected(data) == meta:
        named = [meta, stated]  # servers state Latin-1 by default
    tried = {None, "utf-8", "replacement"}
    for encoding in named:
        if encoding not in tried:
            yield str(encoding)
            tried.add(encoding)
    if (detected := _detected(data)) not in tried:
        yield str(detected)
    yield "windows-1252"


def _detected(data: bytes) -> str | None:
    from resiliparse.parse.encoding import detect_encoding

    found: str | None = detect_encoding(data, html5_compatible=False)
    return encoding_name(DETECTED_NAMES.get(found, found)) if found else None


def _above_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", errors="ignore"))
