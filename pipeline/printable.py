"""Escaping of untrusted text for display: no terminal control and no change of reading order."""

from __future__ import annotations

import re

# C0 without newline and tab, DEL and C1; line and paragraph separators and bidirectional overrides; surrogates, which
# encode bytes of file names that are not UTF-8 and cannot be written to a stream.
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""`text` with every control character escaped: `\x1b` for ESC, `\u202e` for an override.

    Newlines and tabs are kept. Not used for machine-readable output.
    """
    return STEERING.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""`printable`, with newlines and tabs escaped too: `\n`, `\t`."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def valid_text(text: str) -> str:
    r"""`text`, with bytes of file names that are not UTF-8 (lone surrogates) escaped: `\udce9`."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _written_out(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
