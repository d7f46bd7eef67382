"""Decoder of ISO-2022-JP by the Encoding Standard, section 12.2."""

from __future__ import annotations

import re
from collections.abc import Callable

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ESCAPE = re.compile(rb"\x1b(\([BJI]|\$[@B])")
NOT_ASCII = re.compile(rb"[\x0e\x0f\x1b\x80-\xff]")
# Pairs of JIS X 0208, or one malformed sequence.
PAIRS = re.compile(rb"((?:[\x21-\x7e]{2})+)|[\x21-\x7e][^\x1b]?|.", re.DOTALL)
ROMAN = str.maketrans("\\~", "¥‾")
KATAKANA_OFFSET = 0xFF61 - 0x21


def decode_iso_2022_jp(data: bytes, decode_euc_jp: Callable[[bytes], str]) -> str:
    """Text of the bytes; U+FFFD for every malformed sequence, and for an escape directly after another."""
    text, state, end = [], b"(B", 0
    for match in ESCAPE.finditer(data):
        text.append(_segment(data[end : match.start()], state, decode_euc_jp))
        if end and match.start() == end:
            text.append(REPLACEMENT)
        state, end = match[1], match.end()
    return "".join([*text, _segment(data[end:], state, decode_euc_jp)])


def _segment(data: bytes, state: bytes, decode_euc_jp: Callable[[bytes], str]) -> str:
    if state.startswith(b"$"):
        return "".join(_pairs(match, decode_euc_jp) for match in PAIRS.finditer(data))
    if state == b"(I":
        return "".join(chr(byte + KATAKANA_OFFSET) if 0x21 <= byte <= 0x5F else REPLACEMENT for byte in data)
    text = NOT_ASCII.sub(b"\xff", data).decode("ascii", errors="replace")
    return text.translate(ROMAN) if state == b"(J" else text


def _pairs(match: re.Match[bytes], decode_euc_jp: Callable[[bytes], str]) -> str:
    if match[1] is None:
        return REPLACEMENT
    return decode_euc_jp(bytes(byte | 0x80 for byte in match[1]))
