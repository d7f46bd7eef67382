"""The quality rules of Gopher (Rae et al. 2021, arXiv 2112.11446, appendix A1.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from longcat.stages.data.rules.family import Family, Subject, ratio
from longcat.stages.data.text.characters import CUT

if TYPE_CHECKING:
    from longcat.stages.data.rules.view import TextView

# Those of Gopher, and those of East Asian pages.
BULLETS = ("•", "-", "・", "●", "○", "◎", "■", "□", "◆", "◇", "★", "☆", "※", "▲", "△", "▼")
_ELLIPSES = ("...", "…")
_EAST_ASIAN_ELLIPSES = ("⋯", "‥", "。。。", "・・・")


class GopherQualityRules(Family):
    """Gopher's quality rules: counts of words and lines, with thresholds for English."""

    values = (
        "words",
        "mean_word_length",
        "hash_ratio",
        "ellipsis_ratio",
        "bullet_line_fraction",
        "ellipsis_line_fraction",
        "alphabetic_word_fraction",
        "stop_words",
    )

    spare_markdown: bool = Field(default=True, description="Exclude Markdown marks and fenced code from counts.")
    min_words: float | None = Field(default=50, ge=0, description="Minimum number of words, without symbols.")
    max_words: float | None = Field(default=100_000, ge=0, description="Maximum number of words, without symbols.")
    min_mean_word_length: float | None = Field(default=3, ge=0, description="Minimum mean word length, in characters.")
    max_mean_word_length: float | None = Field(default=10, ge=0, description="Maximum mean word length, in characters.")
    max_hash_ratio: float | None = Field(default=0.1, ge=0, description="Maximum number of # per word.")
    max_ellipsis_ratio: float | None = Field(default=0.1, ge=0, description="Maximum number of ellipses per word.")
    max_bullet_line_fraction: float | None = Field(
        default=0.9, ge=0, le=1, description="Maximum fraction of lines that start with - or •."
    )
    max_ellipsis_line_fraction: float | None = Field(
        default=0.3, ge=0, le=1, description="Maximum fraction of lines that end with an ellipsis."
    )
    fewest_lines: int = Field(
        default=0, ge=0, description="Minimum number of lines of a text for fractions of lines to be measured."
    )
    min_alphabetic_word_fraction: float | None = Field(
        default=0.8, ge=0, le=1, description="Minimum fraction of words with a letter."
    )
    min_stop_words: int | None = Field(default=2, ge=0, description="Minimum number of distinct stop words.")
    stop_words: tuple[str, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"),
        description="Stop words to count.",
    )

    def measure(self, subject: Subject) -> dict[str, float]:
        return measure_quality(subject.view(self.spare_markdown), self.stop_words, self.fewest_lines)


def measure_quality(view: TextView, stop_words: Iterable[str], fewest_lines: int = 0) -> dict[str, float]:
    """Counts and ratios of the quality rules; a symbol is a word without letters and digits.

    Fractions of lines are omitted for a text of fewer than `fewest_lines`.
    """
    real = ~view.is_symbol
    n_real = int(real.sum())
    lines = view.prose.splitlines()
    # Most texts have no East Asian letter, and are not searched for East Asian signs.
    unspaced = bool(view.kinds & CUT)
    ends = (*_ELLIPSES, *_EAST_ASIAN_ELLIPSES) if unspaced else _ELLIPSES
    dots = sum(map(view.prose.count, ends))
    bullets = sum([line.lstrip().startswith(BULLETS) for line in lines])
    ellipses = sum([line.rstrip().endswith(ends) for line in lines]) if dots else 0
    hashes = view.prose.count("#") + (view.prose.count("＃") if unspaced else 0)
    of_lines = {
        "bullet_line_fraction": ratio(bullets, len(lines)),
        "ellipsis_line_fraction": ratio(ellipses, len(lines)),
    }
    return {
        "words": n_real,
        "mean_word_length": ratio(int(view.lengths @ real), n_real),
        "hash_ratio": ratio(hashes, view.n_words),
        "ellipsis_ratio": ratio(dots, view.n_words),
        **(of_lines if len(lines) >= fewest_lines else {}),
        "alphabetic_word_fraction": ratio(int(view.has_letter.sum()), view.n_words),
        "stop_words": view.count_of(stop_words),
    }
