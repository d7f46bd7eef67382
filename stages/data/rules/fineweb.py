"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3.6)."""

from __future__ import annotations

from pydantic import Field

from longcat.stages.data.rules.c4 import Lines, count_sentences, left, whole
from longcat.stages.data.rules.family import Family, Subject, ratio
from longcat.stages.data.rules.gopher_repetition import duplicate_characters
from longcat.stages.data.text.characters import SENTENCE_TERMINALS
from longcat.stages.data.text.sentences import ends_by_foreign_mark


class FineWebRules(Family):
    """FineWeb's own rules, applied after C4's line rules."""

    values = ("terminal_line_fraction", "short_line_fraction", "duplicate_line_characters", "newlines_per_word")

    spare_markdown: bool = Field(default=True, description="Exclude Markdown marks and fenced code from counts.")
    min_terminal_line_fraction: float | None = Field(
        default=0.12, ge=0, le=1, description="Minimum fraction of lines that end a sentence."
    )
    max_short_line_fraction: float | None = Field(
        default=0.67, ge=0, le=1, description="Maximum fraction of short lines."
    )
    fewest_lines: int = Field(
        default=0,
        ge=0,
        description="In a text of fewer lines, a sentence may end within a line; short lines are not measured.",
    )
    short_line_length: int = Field(default=30, ge=0, description="Maximum characters of a short line.")
    max_duplicate_line_characters: float | None = Field(
        default=0.01, ge=0, le=1, description="Fraction of characters in repeated lines."
    )
    max_newlines_per_word: float | None = Field(default=0.3, ge=0, description="Maximum line breaks per word.")

    def measure(self, subject: Subject) -> dict[str, float]:
        view = subject.view(self.spare_markdown)
        lines = whole(view) if subject.cleaned is None else left(view, subject.cleaned)
        return measure(lines, self.short_line_length, self.fewest_lines)


def measure(lines: Lines, short_line_length: int, fewest_lines: int = 0) -> dict[str, float]:
    """Ratios over the prose lines kept by C4's rules (all prose lines if those do not apply).

    In a text of fewer than `fewest_lines`, lines within which a sentence ends count as ended, and the fraction of short
    lines is omitted.
    """
    kept = lines.prose
    few = len(kept) < fewest_lines
    ended = sum(_ends(line) or (few and _has_break(line)) for line in kept)
    short = sum(len(line) <= short_line_length for line in kept)
    return {
        "terminal_line_fraction": ratio(ended, len(kept)),
        **({} if few else {"short_line_fraction": ratio(short, len(kept))}),
        "duplicate_line_characters": ratio(duplicate_characters(kept), sum(map(len, kept))),
        "newlines_per_word": ratio(lines.newlines, lines.words),
    }


def _ends(line: str) -> bool:
    return line[-1] in SENTENCE_TERMINALS or ends_by_foreign_mark(line)


def _has_break(line: str) -> bool:
    from longcat.stages.data.text.character_kinds import kinds_in

    return count_sentences(line, kinds_in(line)) > 1
