"""Text from outside cannot control a terminal."""

from __future__ import annotations

import pytest

from longcat.pipeline.printable import one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("over\rwritten\b", "over\\x0dwritten\\x08"),
        ("\x00\x0b\x0c\x7f", "\\x00\\x0b\\x0c\\x7f"),
        ("\x80\x9b2J\x9f", "\\x80\\x9b2J\\x9f"),
        ("\u202aa\u202eb\u2066c\u2069", "\\u202aa\\u202eb\\u2066c\\u2069"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("name-\udcff.txt \ud800", "name-\\udcff.txt \\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("größe 日本語 🙂 \u200d \xa0 [b]", "größe 日本語 🙂 \u200d \xa0 [b]"),
    ],
)
def test_control_characters_are_escaped_and_the_rest_is_kept(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown


def test_all_control_characters_are_known() -> None:
    left = {code for code in range(0x3000) if printable(chr(code)) == chr(code)}
    assert left.isdisjoint({*range(9), *range(11, 32), *range(0x7F, 0xA0), *range(0x2028, 0x202F)})
    assert {9, 10, 32, 0xA0, 0x200B, 0x202F} <= left


def test_a_line_has_no_line_breaks() -> None:
    assert one_line("a\nb\tc\r") == "a\\nb\\tc\\x0d"
