"""Text from outside, made fit to be shown: nothing in it steers a terminal or changes the order of what is read."""

from __future__ import annotations

import re

# C0 without newline and tab, DEL and C1; line and paragraph separator and the overrides of reading order; surrogates,
# which stand for bytes of file names that are no UTF-8 and which no stream can write.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with every character that steers written out: `\x1b` for ESC, `\u202e` for an override.

    Newlines and tabs stay. What is data for machines does not come through here.
    """
    return STEERING.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""`printable`, and newlines and tabs are written out too: `\n`, `\t`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
