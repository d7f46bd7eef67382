"""The repetition rules of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from longcat.stages.data.rules.family import Family, Kind, Subject, ratio

if TYPE_CHECKING:
    from longcat.stages.data.rules.view import TextView

TOP_SIZES = (2, 3, 4)
DUPLICATE_SIZES = (5, 6, 7, 8, 9, 10)


class GopherRepetitionRules(Family):
    """Gopher's repetition rules: fractions of items or characters that repeat earlier ones."""

    values = (
        "duplicate_paragraph_fraction",
        "duplicate_paragraph_characters",
        "duplicate_line_fraction",
        "duplicate_line_characters",
        *(f"top_{size}_gram" for size in TOP_SIZES),
        *(f"duplicate_{size}_grams" for size in DUPLICATE_SIZES),
    )

    kinds: tuple[Kind, ...] = Field(default=("prose", "markdown"), description="Document kinds judged by this family.")
    spare_markdown: bool = Field(default=True, description="Exclude Markdown marks and fenced code from counts.")
    max_duplicate_paragraph_fraction: float | None = Field(default=0.3, ge=0, le=1, description="Share of paragraphs.")
    max_duplicate_paragraph_characters: float | None = Field(
        default=0.2, ge=0, le=1, description="Fraction of characters in repeated paragraphs."
    )
    max_duplicate_line_fraction: float | None = Field(default=0.3, ge=0, le=1, description="Share of lines.")
    max_duplicate_line_characters: float | None = Field(
        default=0.2, ge=0, le=1, description="Fraction of characters in repeated lines."
    )
    max_top_2_gram: float | None = Field(
        default=0.2, ge=0, description="Fraction of characters in the most frequent 2-gram."
    )
    max_top_3_gram: float | None = Field(
        default=0.18, ge=0, description="Fraction of characters in the most frequent 3-gram."
    )
    max_top_4_gram: float | None = Field(
        default=0.16, ge=0, description="Fraction of characters in the most frequent 4-gram."
    )
    max_duplicate_5_grams: float | None = Field(default=0.15, ge=0, le=1, description="Characters in repeated 5-grams.")
    max_duplicate_6_grams: float | None = Field(default=0.14, ge=0, le=1, description="Characters in repeated 6-grams.")
    max_duplicate_7_grams: float | None = Field(default=0.13, ge=0, le=1, description="Characters in repeated 7-grams.")
    max_duplicate_8_grams: float | None = Field(default=0.12, ge=0, le=1, description="Characters in repeated 8-grams.")
    max_duplicate_9_grams: float | None = Field(default=0.11, ge=0, le=1, description="Characters in repeated 9-grams.")
    max_duplicate_10_grams: float | None = Field(
        default=0.10, ge=0, le=1, description="Characters in repeated 10-grams."
    )

    def measure(self, subject: Subject) -> dict[str, float]:
        return measure_repetition(subject.view(self.spare_markdown))


def measure_repetition(view: TextView) -> dict[str, float]:
    """Fractions of the text, by number and by characters, that repeat earlier text."""
    from longcat.stages.data.rules.ngrams import repeated_characters

    characters = len(view.prose)
    paragraphs = [part.lstrip("\n") for part in view.prose.strip().split("\n\n") if part]
    lines = [line for line in view.prose_lines if line]
    values = {
        "duplicate_paragraph_fraction": duplicate_fraction(paragraphs),
        "duplicate_paragraph_characters": ratio(duplicate_characters(paragraphs), characters),
        "duplicate_line_fraction": duplicate_fraction(lines),
        "duplicate_line_characters": ratio(duplicate_characters(lines), characters),
    }
    repeated = repeated_characters(view.word_ids, view.lengths, view.is_parted, TOP_SIZES, DUPLICATE_SIZES)
    for name, covered in repeated.items():
        values[name] = ratio(covered, characters)
    return values


def duplicate_fraction(items: Sequence[str]) -> float:
    """Fraction of items that occurred before."""
    return ratio(len(items) - len(set(items)), len(items))


def duplicate_characters(items: Sequence[str]) -> int:
    """Characters in items that occurred before."""
    return sum(map(len, items)) - sum(map(len, set(items)))
