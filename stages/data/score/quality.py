"""The quality of a document, 0 to 1: what the classifier says, or, without one, the mean of a few shares."""

from __future__ import annotations

from longcat.pipeline.documents import Document
from longcat.stages.data.filter import c4, code, fineweb, gopher
from longcat.stages.data.filter.config import FilterConfig
from longcat.stages.data.filter.rules import document_kind
from longcat.stages.data.filter.view import view_text

_SHORT_LINE = FilterConfig().fineweb.short_line_length


def rule_quality(document: Document, characters: int) -> float:
    """Quality by rules, of the first `characters`.

    Text: the mean of the shares of lines that end a sentence, of lines that are not short, of characters in lines that
    are no repetition, and of words with a letter. Source code: the mean of the shares of letters and digits, and of
    characters in lines that are no repetition.
    """
    text = document.text[:characters]
    if not text.strip():
        return 0.0
    if document_kind(document) == "code":
        lines = [line for line in text.splitlines() if line.strip()]
        repeated = gopher.duplicate_characters(lines) / sum(map(len, lines))
        return (code.measure(text)["alphanumeric_fraction"] + 1 - repeated) / 2
    view = view_text(text)
    lines_found = fineweb.measure(c4.whole(view), _SHORT_LINE)
    words_found = gopher.measure_quality(view, ())
    shares = (
        lines_found["terminal_line_fraction"],
        1 - lines_found["short_line_fraction"],
        1 - lines_found["duplicate_line_characters"],
        words_found["alphabetic_word_fraction"],
    )
    return sum(shares) / len(shares)
