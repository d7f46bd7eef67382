"""The counts behind the rules: one tokenisation, and n-gram measures equal to their plain definitions."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.pipeline.documents import Document
from longcat.stages.data.rules import view
from longcat.stages.data.rules.c4 import whole
from longcat.stages.data.rules.config import FilterConfig
from longcat.stages.data.rules.fineweb import measure
from longcat.stages.data.rules.gopher_quality import measure_quality
from longcat.stages.data.rules.gopher_repetition import measure_repetition
from longcat.stages.data.rules.judge import judge
from longcat.stages.data.rules.view import view_text


def words_of(text: str) -> list[str]:
    view = view_text(text)
    words = list(view.numbers)
    return [words[number] for number in view.word_ids]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's his, don't ask.", ["It", "'s", "his", ",", "do", "n't", "ask", "."]),
        ("See https://a.org/b?c=1 now", ["See", "https://a.org/b?c=1", "now"]),
        ("1,234.5 at 10:30", ["1,234.5", "at", "10:30"]),
        ("the U.S. well-known UTF-8", ["the", "U.S.", "well", "-", "known", "UTF-8"]),
        ("wait... (yes)", ["wait", "...", "(", "yes", ")"]),
        ("e-mail me@x.org", ["e", "-", "mail", "me@x.org"]),
        ("We’re (e.g., here) can’t", ["We", "’re", "(", "e.g.", ",", "here", ")", "ca", "n’t"]),
        ("def f(self):", ["def", "f(self", "):"]),
        ("x=y 3km 5pm. |---+---|", ["x", "=", "y", "3", "km", "5", "pm", ".", "|---+---|"]),
        ("ends... ——A.B, vs. 10°C", ["ends", "...", "—", "—", "A.B", ",", "vs.", "10", "°", "C"]),
    ],
)
def test_words_are_split_as_the_published_counts_expect(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="aB1.,:'’\"()[]-—+=$%/@°_ |", max_size=40))
def test_words_put_together_are_the_text_without_its_blanks(text: str) -> None:
    assert "".join(words_of(text)) == "".join(text.split())


def test_words_do_not_depend_on_the_texts_before(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Mr. Smith's well-known (e.g., old) values: f(x):\nSmith's values."
    first = view_text(text)
    for number in range(300):
        view_text(f"other{number} words-{number} Smith's {number}.")
    assert words_of(text) == [list(first.numbers)[number] for number in first.word_ids]
    monkeypatch.setattr(view, "MAX_REMEMBERED", 10)
    fresh = view_text(text)
    assert fresh.numbers is not first.numbers
    assert (fresh.line_words.tolist(), fresh.lengths.tolist()) == (first.line_words.tolist(), first.lengths.tolist())


def test_words_are_counted_a_line() -> None:
    assert view_text("one two\n\nthree.\n").line_words.tolist() == [2, 0, 2, 0]


def plain_top_gram(words: list[str], size: int) -> int:
    grams = [" ".join(words[at : at + size]) for at in range(len(words) - size + 1)]
    gram, count = Counter(grams).most_common(1)[0] if grams else ("", 0)
    return len(gram) * count


def plain_duplicates(words: list[str], size: int) -> int:
    seen: set[tuple[str, ...]] = set()
    covered = at = 0
    while at + size <= len(words):
        gram = tuple(words[at : at + size])
        if gram in seen:
            covered += sum(map(len, gram))
            at += size
        else:
            seen.add(gram)
            at += 1
    return covered


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), min_size=1, max_size=80))
def test_repetition_equals_its_definition(words: list[str]) -> None:
    text = " ".join(words)
    values = measure_repetition(view_text(text))
    for size in (2, 3, 4):
        assert values[f"top_{size}_gram"] == pytest.approx(plain_top_gram(words, size) / len(text))
    for size in range(5, 11):
        assert values[f"duplicate_{size}_grams"] == pytest.approx(plain_duplicates(words, size) / len(text))


def test_duplicate_lines_and_paragraphs_are_counted_from_the_second_on() -> None:
    values = measure_repetition(view_text("ab\n\nab\n\ncdef\n\nab"))
    assert values["duplicate_paragraph_fraction"] == 0.5
    assert values["duplicate_paragraph_characters"] == pytest.approx(4 / 16)
    assert values["duplicate_line_fraction"] == 0.5
    assert values["duplicate_line_characters"] == pytest.approx(4 / 16)


def test_quality_counts() -> None:
    values = measure_quality(view_text("- The cat # sat ...\n• on 12 mats, with it…\n\nend"), ("the", "with", "on"))
    assert values["words"] == 10  # the bullet sign is a word to the published rule, - # ... , … are symbols
    assert values["hash_ratio"] == pytest.approx(1 / 15)
    assert values["ellipsis_ratio"] == pytest.approx(2 / 15)
    assert values["bullet_line_fraction"] == 0.5
    assert values["ellipsis_line_fraction"] == 0.5
    assert values["alphabetic_word_fraction"] == pytest.approx(8 / 15)
    assert values["stop_words"] == 2


def test_fineweb_ratios() -> None:
    values = measure(whole(view_text("A line that ends well.\nshort\nshort\n\nAnother line without its end")), 10)
    assert values["terminal_line_fraction"] == 0.25
    assert values["short_line_fraction"] == 0.5
    assert values["duplicate_line_characters"] == pytest.approx(5 / (22 + 5 + 5 + 28))
    assert values["newlines_per_word"] == pytest.approx(4 / 13)


ODD = [part * 60_000 for part in ("....", "http://.", "aaa", ". ", "a=+", '."', "> ", "`a", "```\n", "\n\n")]
ODD[-1] += "x"


@pytest.mark.parametrize(
    "text",
    ODD,
    ids=["dots", "addresses", "one word", "lone dots", "signs", "quotes", "quoted", "spans", "fences", "breaks"],
)
def test_odd_texts_cost_no_more_than_their_length(text: str) -> None:
    config = FilterConfig.model_validate({"language": {"enabled": False}})
    start = time.process_time()
    judge(Document("d", text, "test"), config, None)
    assert time.process_time() - start < 3


@given(st.text(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_text_is_judged(text: str) -> None:
    verdict = judge(Document("d", text, "test"), FilterConfig.model_validate({"language": {"enabled": False}}), None)
    assert verdict.reason is not None


def test_prose_has_the_counts_one_would_count_by_hand(prose: str) -> None:
    view = view_text(prose)
    assert view.n_words == sum(view.line_words.tolist())
    assert measure_quality(view, ("the",))["words"] == len(prose.split())
