"""Kinds of characters as bits, for whole texts at once."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt

from longcat.stages.data.text.characters import (
    ALONE,
    CLOSER,
    CLOSERS,
    CUT,
    FOREIGN_TERMINALS,
    GREEK,
    GREEK_LETTER,
    JOINED,
    JOINERS,
    OUTSIDE,
    RUN,
    SINGLE,
    TERMINAL,
    UNMARKED,
    UNMARKED_LETTER,
    UNSPACED,
    marks,
)

Codes = npt.NDArray[np.uint32]
Kinds = npt.NDArray[np.uint8]


def codes_of(text: str) -> Codes:
    """Code points of a text, lone surrogates included; shape [n characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def text_of(codes: Codes) -> str:
    """Text of code points."""
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def present(codes: Codes) -> int:
    """Bits of all kinds among the characters."""
    return int(np.bitwise_or.reduce(kind_table()[codes], initial=0))


def kinds_in(text: str) -> int:
    """Bits of all kinds in a text; 0 for ASCII."""
    return 0 if text.isascii() else present(codes_of(text))


@cache
def kind_table() -> Kinds:
    """Bits of every code point."""
    every = np.arange(0x110000, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")
    table = np.full(len(every), OUTSIDE, dtype=np.uint8)
    words = ((r"\w+", RUN), (f"[{UNSPACED}]+", CUT), (f"[{ALONE}]+", SINGLE), (f"[{marks()}{JOINERS}]+", JOINED))
    for pattern, kind in words:
        for match in re.finditer(pattern, every):
            table[match.start() : match.end()] = kind
    for signs, kind in ((FOREIGN_TERMINALS, TERMINAL), (CLOSERS, CLOSER)):
        table[[ord(sign) for sign in signs]] |= kind
    for letters, kind in ((GREEK, GREEK_LETTER), (UNMARKED, UNMARKED_LETTER)):
        for match in re.finditer(f"[{letters}]+", every):
            table[match.start() : match.end()] |= kind
    return table
