"""Rules for source code (Chen et al. 2021, arXiv 2107.03374, section 3.1; The Stack's filters)."""

from __future__ import annotations

from unicodedata import category

from pydantic import Field

from longcat.stages.data.rules.family import Family, Kind, Subject, ratio


class CodeRules(Family):
    """Rules for source code: they detect generated, packed and data files."""

    values = ("line_length", "mean_line_length", "alphanumeric_fraction")

    kinds: tuple[Kind, ...] = Field(default=("code",), description="Document kinds judged by this family.")
    max_line_length: float | None = Field(default=1000, ge=0, description="Maximum length of a line, in characters.")
    max_mean_line_length: float | None = Field(
        default=100, ge=0, description="Maximum mean line length, in characters."
    )
    min_alphanumeric_fraction: float | None = Field(
        default=0.25, ge=0, le=1, description="Minimum fraction of letters and digits."
    )

    def measure(self, subject: Subject) -> dict[str, float]:
        return measure(subject.original)


def measure(text: str) -> dict[str, float]:
    """Line lengths in characters and fraction of letters and digits, which indicate generated or packed files."""
    lengths = [len(line) for line in text.splitlines()]
    return {
        "line_length": max(lengths, default=0),
        "mean_line_length": ratio(sum(lengths), len(lengths)),
        "alphanumeric_fraction": ratio(_letters(text), len(text)),
    }


def _letters(text: str) -> int:
    """Letters with their marks, and digits."""
    if text.isascii():
        return sum(map(str.isalnum, text))
    return sum(sign.isalnum() or category(sign) in ("Mn", "Mc") for sign in text)
