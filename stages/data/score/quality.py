"""Quality of a document, 0 to 1: classifier score, or without one the mean of some fractions."""

from __future__ import annotations

from longcat.pipeline.documents import Document
from longcat.stages.data.rules import c4, code, fineweb
from longcat.stages.data.rules.config import FilterConfig
from longcat.stages.data.rules.gopher_quality import measure_quality
from longcat.stages.data.rules.gopher_repetition import duplicate_characters
from longcat.stages.data.rules.judge import document_kind
from longcat.stages.data.rules.view import view_text

_SHORT_LINE = FilterConfig().fineweb.short_line_length


def rule_quality(document: Document, characters: int) -> float:
    """Rule-based quality of the first `characters`.

    Text: mean of the fractions of lines that end a sentence, lines that are not short, characters in lines that are not
        repeated, and words with a letter. Source code: mean of the fractions of letters and digits, and of characters
        in lines that are not repeated.
    """
    text = document.text[:characters]
    if not text.strip():
        return 0.0
    if document_kind(document) == "code":
        lines = [line for line in text.splitlines() if line.strip()]
        repeated = duplicate_characters(lines) / sum(map(len, lines))
        return (code.measure(text)["alphanumeric_fraction"] + 1 - repeated) / 2
    view = view_text(text)
    lines_found = fineweb.measure(c4.whole(view), _SHORT_LINE)
    words_found = measure_quality(view, ())
    shares = (
        lines_found["terminal_line_fraction"],
        1 - lines_found["short_line_fraction"],
        1 - lines_found["duplicate_line_characters"],
        words_found["alphabetic_word_fraction"],
    )
    return sum(shares) / len(shares)
