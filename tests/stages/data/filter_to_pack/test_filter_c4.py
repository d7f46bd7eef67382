"""What C4's line rules take out of a text, and what they leave alone."""

from __future__ import annotations

from typing import Any

import pytest

from longcat.stages.data.rules.c4 import C4Lines, clean, count_sentences, left
from longcat.stages.data.rules.view import view_text
from longcat.stages.data.text.character_kinds import kinds_in


def cleaned(text: str, **rules: Any) -> str:
    return clean(view_text(text), C4Lines(**rules))[0].text


@pytest.mark.parametrize(
    ("line", "off"),
    [
        ("Two words", {"min_words": None}),
        ("Please enable Javascript to see this page.", {"remove_javascript": False}),
        ("By going on you accept our privacy policy.", {"remove_policy": False}),
        ("This site uses cookies to know you again.", {"remove_policy": False}),
        (f"One word is {'x' * 1001} characters long.", {"max_word_length": None}),
    ],
)
def test_a_line_is_taken_out_for_each_rule(prose: str, line: str, off: dict[str, Any]) -> None:
    text = prose.replace("\n", f"\n{line}\n", 1)
    assert cleaned(text) == prose
    assert cleaned(text, **off) == text


def test_lines_without_terminal_punctuation_go_only_where_asked(prose: str) -> None:
    text = prose + "\nA line that ends in nothing\nA line that trails off..."
    assert cleaned(text) == text
    assert cleaned(text, require_terminal_punctuation=True) == prose


def test_citations_are_taken_out_of_lines(prose: str) -> None:
    text = prose.replace("sea.", "sea.[12]", 1).replace("month.", "month.[citation needed]", 1)
    assert cleaned(text) == prose
    assert cleaned(text, remove_citations=False) == text


def test_a_line_of_citations_alone_is_no_line_of_prose() -> None:
    view = view_text("[1] [2] [3]\nThe sources are listed above this line.")
    assert left(view, clean(view, C4Lines())[0]).prose == ["The sources are listed above this line."]


def test_paragraphs_stay_apart_where_lines_are_taken_out() -> None:
    assert cleaned("First one is here.\n\nMenu\n\nLast one is here.") == "First one is here.\n\nLast one is here."


def test_a_text_with_nothing_to_take_out_is_not_touched() -> None:
    text = "  First one is here.  \n\n\n\nLast one is here.\n"
    assert cleaned(text) == text


def test_headings_tables_and_fenced_code_are_spared() -> None:
    text = "# Usage\nIt is used like this:\n\n```c\nint f() {\n}\n```\n| a | b |\nDone with that."
    lines, values = clean(view_text(text), C4Lines())
    assert lines.text == text
    assert values["curly_brackets"] == 0
    lines, values = clean(view_text(text), C4Lines(spare_markdown=False))
    assert "# Usage" not in lines.text
    assert values["curly_brackets"] == 1


def test_counts_what_was_removed() -> None:
    values = clean(view_text("Menu\nHome\nThis line is long enough."), C4Lines())[1]
    assert values["lines_removed"] == 2
    assert values["characters_removed"] == 10


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One line", 1),
        ("One. Two! Three?", 3),
        ("One.\nTwo.", 2),
        ('He left. "Then he came." She stayed.', 3),
        ("Mr. Smith met J. Jones at 3.15 p.m. yesterday.", 1),
        ("He lives in the USA. She does not.", 2),
        ("第一句。第二句。", 2),
        ("." * 100_000 + " x", 2),
    ],
)
def test_counts_sentences(text: str, sentences: int) -> None:
    assert count_sentences(text, kinds_in(text)) == sentences
