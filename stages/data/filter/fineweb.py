"""What FineWeb's own rules measure (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

from __future__ import annotations

from longcat.stages.data.filter.c4 import Lines
from longcat.stages.data.filter.characters import SENTENCE_TERMINALS
from longcat.stages.data.filter.gopher import duplicate_characters
from longcat.stages.data.filter.view import ratio


def measure(lines: Lines, short_line_length: int) -> dict[str, float]:
    """Ratios over the lines of prose that C4's rules left (all lines of prose where those do not apply)."""
    kept = lines.prose
    ended = sum(line[-1] in SENTENCE_TERMINALS for line in kept)
    short = sum(len(line) <= short_line_length for line in kept)
    return {
        "terminal_line_fraction": ratio(ended, len(kept)),
        "short_line_fraction": ratio(short, len(kept)),
        "duplicate_line_characters": ratio(duplicate_characters(kept), sum(map(len, kept))),
        "newlines_per_word": ratio(lines.newlines, lines.words),
    }
