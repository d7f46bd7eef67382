"""Ends of sentences and of lines in every script.

The published rules know the marks of English. What they say about those is unchanged, marks of other scripts are added.
"""

from __future__ import annotations

import re

from longcat.stages.data.text.characters import (
    CLOSER,
    CLOSERS,
    CUT,
    FOREIGN_TERMINALS,
    GREEK,
    GREEK_LETTER,
    TERMINAL,
    UNMARKED,
    UNMARKED_LETTER,
)

# Marks that end a sentence in C4, with ASCII quotes.
_C4_TERMINAL = (".", "?", "!", '"', "'")
_ALL_CLOSERS = CLOSERS + "\"'”’)]"
_ELLIPSES = "…⋯‥"

_GREEK_QUESTION = re.compile(f"[{GREEK}];")
_ENDS_UNMARKED = re.compile(f"[{UNMARKED}]")
# Each starts with a character that the search can skip to.
_BREAKS = {
    TERMINAL: re.compile(
        f"[{re.escape(''.join(sorted(FOREIGN_TERMINALS)))}]++[{re.escape(_ALL_CLOSERS)}]*+"
        f"(?=[^\\S\\n]*+[^\\s{re.escape(_ALL_CLOSERS)}])"
    ),
    CLOSER: re.compile(f"[{CLOSERS}](?<=[.?!].)[{CLOSERS}]*+(?=[^\\S\\n]*+\\w)"),
    GREEK_LETTER: re.compile(f";(?<=[{GREEK}];)(?=[^\\S\\n]++\\w)"),
    UNMARKED_LETTER: re.compile(f"[^\\S\\n]++(?<=[{UNMARKED}]\\s)(?=[{UNMARKED}])"),
}


def ends_sentence(line: str) -> bool:
    """Whether a stripped line ends with a mark of C4 or of another script, or with a letter of Thai or Lao."""
    if line.endswith(_C4_TERMINAL) or ends_by_foreign_mark(line):
        return True
    return _ENDS_UNMARKED.match(line.rstrip(_ALL_CLOSERS)[-1:]) is not None


def ends_by_foreign_mark(line: str) -> bool:
    """Whether a stripped line ends with a mark of another script than Latin, also before closing quotes."""
    if line.isascii():
        return False
    bare = line.rstrip(_ALL_CLOSERS)
    mark, closers = bare[-1:], line[len(bare) :]
    if mark in FOREIGN_TERMINALS or _GREEK_QUESTION.fullmatch(bare[-2:]):
        return True
    before = bare.rstrip(_ELLIPSES + ".?!")[-1:]
    foreign = before >= "\u0370" and before.isalnum()
    if mark and mark in _ELLIPSES:
        return foreign
    return bool(mark) and mark in ".?!" and (foreign or not set(closers).isdisjoint(CLOSERS))


def foreign_breaks(text: str, kinds: int) -> int:
    """Number of sentence ends before another sentence on the line, apart from those by marks of English.

    `kinds` are the bits of `kinds_in` of the text, or of one that it is part of.
    """
    # Guillemets are frequent in the menus of English pages, and splitting is faster than searching.
    if kinds & CLOSER and not kinds & CUT and not any(_closes(text, quote) for quote in "»›"):
        kinds &= ~CLOSER
    return sum(len(pattern.findall(text)) for kind, pattern in _BREAKS.items() if kinds & kind)


def _closes(text: str, quote: str) -> bool:
    """Whether a quote follows a mark of English anywhere."""
    return any(part.endswith((".", "?", "!")) for part in text.split(quote)[:-1])
