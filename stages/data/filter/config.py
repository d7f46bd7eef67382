"""The thresholds of the filter, a model a family of rules.

A threshold is named `min_x` or `max_x` after the measured value `x` and is switched off by null. A document that
falls below a `min_x` or goes above a `max_x` is dropped, and the reason is `family.min_x` or `family.max_x`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from longcat.pipeline.config import StageConfig

Kind = Literal["prose", "markdown", "code"]


class Family(BaseModel):
    """What all families share."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    enabled: bool = Field(default=True, description="Whether documents are measured and judged by this family at all.")
    kinds: tuple[Kind, ...] = Field(default=("prose",), description="The kinds of document this family judges.")


class LanguageRules(Family):
    """fastText's lid.176 on the first 4 kB of the text."""

    kinds: tuple[Kind, ...] = Field(
        default=("prose", "markdown"), description="The kinds of document this family judges."
    )
    allowed: tuple[str, ...] = Field(default=("en",), description="ISO 639 codes that are kept; none named keeps all.")
    min_probability: float | None = Field(default=0.65, ge=0, le=1, description="Least probability of the language.")


class GopherQualityRules(Family):
    """Gopher's quality rules: counts of words and lines. The thresholds are those for English."""

    spare_markdown: bool = Field(default=True, description="Count no marks of markdown and no fenced code.")
    min_words: float | None = Field(default=50, ge=0, description="Least number of words, signs not counted.")
    max_words: float | None = Field(default=100_000, ge=0, description="Greatest number of words, signs not counted.")
    min_mean_word_length: float | None = Field(
        default=3, ge=0, description="Least mean length of a word, in characters."
    )
    max_mean_word_length: float | None = Field(
        default=10, ge=0, description="Greatest mean length of a word, in characters."
    )
    max_hash_ratio: float | None = Field(default=0.1, ge=0, description="Greatest number of # a word.")
    max_ellipsis_ratio: float | None = Field(default=0.1, ge=0, description="Greatest number of ellipses a word.")
    max_bullet_line_fraction: float | None = Field(
        default=0.9, ge=0, le=1, description="Share of lines that begin with - or •."
    )
    max_ellipsis_line_fraction: float | None = Field(
        default=0.3, ge=0, le=1, description="Share of lines that end with an ellipsis."
    )
    min_alphabetic_word_fraction: float | None = Field(
        default=0.8, ge=0, le=1, description="Share of words with a letter."
    )
    min_stop_words: int | None = Field(default=2, ge=0, description="Least number of different stop words.")
    stop_words: tuple[str, ...] = Field(
        default=("the", "be", "to", "of", "and", "that", "have", "with"),
        description="The stop words that are looked for.",
    )


class GopherRepetitionRules(Family):
    """Gopher's repetition rules: shares of the items or of the characters that repeat earlier ones."""

    kinds: tuple[Kind, ...] = Field(
        default=("prose", "markdown"), description="The kinds of document this family judges."
    )
    spare_markdown: bool = Field(default=True, description="Count no marks of markdown and no fenced code.")
    max_duplicate_paragraph_fraction: float | None = Field(default=0.3, ge=0, le=1, description="Share of paragraphs.")
    max_duplicate_paragraph_characters: float | None = Field(
        default=0.2, ge=0, le=1, description="Share of characters in repeated paragraphs."
    )
    max_duplicate_line_fraction: float | None = Field(default=0.3, ge=0, le=1, description="Share of lines.")
    max_duplicate_line_characters: float | None = Field(
        default=0.2, ge=0, le=1, description="Share of characters in repeated lines."
    )
    max_top_2_gram: float | None = Field(default=0.2, ge=0, description="Characters in the most frequent 2-gram.")
    max_top_3_gram: float | None = Field(default=0.18, ge=0, description="Characters in the most frequent 3-gram.")
    max_top_4_gram: float | None = Field(default=0.16, ge=0, description="Characters in the most frequent 4-gram.")
    max_duplicate_5_grams: float | None = Field(default=0.15, ge=0, le=1, description="Characters in repeated 5-grams.")
    max_duplicate_6_grams: float | None = Field(default=0.14, ge=0, le=1, description="Characters in repeated 6-grams.")
    max_duplicate_7_grams: float | None = Field(default=0.13, ge=0, le=1, description="Characters in repeated 7-grams.")
    max_duplicate_8_grams: float | None = Field(default=0.12, ge=0, le=1, description="Characters in repeated 8-grams.")
    max_duplicate_9_grams: float | None = Field(default=0.11, ge=0, le=1, description="Characters in repeated 9-grams.")
    max_duplicate_10_grams: float | None = Field(
        default=0.10, ge=0, le=1, description="Characters in repeated 10-grams."
    )


class C4Lines(BaseModel):
    """C4's line rules: a line that breaks one is taken out of the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    # FineWeb found this rule alone to remove a third of all tokens, so it is off where C4 has it on.
    require_terminal_punctuation: bool = Field(
        default=False, description="Take out lines that end with none of . ? ! \" '."
    )
    min_words: int | None = Field(default=3, ge=0, description="Least number of words on a line.")
    max_word_length: int | None = Field(
        default=1000, ge=1, description="Greatest length of a word on a line, in characters."
    )
    remove_javascript: bool = Field(default=True, description="Take out lines that say javascript.")
    remove_policy: bool = Field(
        default=True, description="Take out lines about terms of use, privacy policies and cookies."
    )
    remove_citations: bool = Field(default=True, description="Take [1], [edit] and [citation needed] out of lines.")
    spare_markdown: bool = Field(default=True, description="Leave headings, table rows and fenced code as they are.")


class C4Rules(Family):
    """C4's page rules, on what its line rules leave."""

    lines: C4Lines = Field(default=C4Lines(), description="The line rules.")
    max_lorem_ipsum: int | None = Field(default=0, ge=0, description="Greatest number of lines with lorem ipsum.")
    max_curly_brackets: int | None = Field(
        default=0, ge=0, description="Greatest number of lines with a curly bracket."
    )
    min_sentences: int | None = Field(default=5, ge=0, description="Least number of sentences.")


class FineWebRules(Family):
    """FineWeb's own rules, on what C4's line rules leave."""

    spare_markdown: bool = Field(default=True, description="Count no marks of markdown and no fenced code.")
    min_terminal_line_fraction: float | None = Field(
        default=0.12, ge=0, le=1, description="Share of lines that end a sentence."
    )
    max_short_line_fraction: float | None = Field(default=0.67, ge=0, le=1, description="Share of short lines.")
    short_line_length: int = Field(default=30, ge=0, description="A line of at most so many characters is short.")
    max_duplicate_line_characters: float | None = Field(
        default=0.01, ge=0, le=1, description="Share of characters in repeated lines."
    )
    max_newlines_per_word: float | None = Field(default=0.3, ge=0, description="Line breaks a word.")


class CodeRules(Family):
    """Rules for source code: they tell generated, packed and data files."""

    kinds: tuple[Kind, ...] = Field(default=("code",), description="The kinds of document this family judges.")
    max_line_length: float | None = Field(default=1000, ge=0, description="Length of the longest line, in characters.")
    max_mean_line_length: float | None = Field(default=100, ge=0, description="Mean length of a line, in characters.")
    min_alphanumeric_fraction: float | None = Field(
        default=0.25, ge=0, le=1, description="Share of letters and digits."
    )


class QualityRules(Family):
    """A classifier's score, where one is given as the input `classifier`; coarse first, then fine.

    A document whose beginning scores under `min_coarse_score` is dropped for it; one whose beginning scores at least
    `sure_score` keeps that score; only those between are scored as a whole.
    """

    kinds: tuple[Kind, ...] = Field(
        default=("prose", "markdown"), description="The kinds of document this family judges."
    )
    coarse_characters: int = Field(default=1000, ge=1, description="Length of the beginning that is scored first.")
    min_coarse_score: float | None = Field(default=0.1, ge=0, le=1, description="Least score of the beginning.")
    sure_score: float = Field(default=0.95, ge=0, le=1, description="From this score on the beginning is enough.")
    fine_characters: int = Field(default=10_000, ge=1, description="Length of text that is scored after that.")
    min_score: float | None = Field(default=0.5, ge=0, le=1, description="Least score of the document.")


class SiteRules(BaseModel):
    """Taking out lines that stand on many documents of a site, before any family measures the text."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    enabled: bool = Field(default=False, description="Whether it is done; the input is then read twice.")
    min_documents: int = Field(default=5, ge=2, description="Documents of a site that a line must stand on.")
    min_share: float = Field(default=0.3, ge=0, le=1, description="Share of a site's documents it must stand on.")


class FilterConfig(StageConfig):
    """Families of rules, judged in this order; the first rule broken is the reason a document is dropped for."""

    language: LanguageRules = Field(default=LanguageRules(), description="Language identification.")
    gopher_quality: GopherQualityRules = Field(default=GopherQualityRules(), description="Gopher's quality rules.")
    gopher_repetition: GopherRepetitionRules = Field(
        default=GopherRepetitionRules(), description="Gopher's repetition rules."
    )
    c4: C4Rules = Field(default=C4Rules(), description="C4's line and page rules.")
    fineweb: FineWebRules = Field(default=FineWebRules(), description="FineWeb's rules.")
    code: CodeRules = Field(default=CodeRules(), description="Rules for source code.")
    quality: QualityRules = Field(default=QualityRules(), description="The quality classifier, where one is given.")
    sites: SiteRules = Field(default=SiteRules(), description="Lines that stand on many documents of a site.")
