"""The word stream: what it does not see, and where its words stand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.data.decontaminate.words import ABSENT, Lexicon, NgramHasher, hash_words, word_spans, words_of

ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80)


def test_case_punctuation_layout_and_forms_say_nothing() -> None:
    plain = words_of("the café sells 3 eggs at 20 degrees")
    assert words_of("The CAFÉ\nsells — “3” eggs,\u00a0at\u3000２０ de\u00adgrees!") == plain
    assert words_of("the cafe\u0301 *sells* _3_ eggs\r\n> at 20 degrees") == plain


def test_signs_without_blanks_are_words_each() -> None:
    assert [word.decode() for word in words_of("日本語abc カナ")] == ["日", "本", "語", "abc", "カ", "ナ"]


@given(ANY_TEXT)
def test_every_word_has_its_place(text: str) -> None:
    spans = word_spans(text)
    assert len(spans) == len(words_of(text))
    assert all(0 <= first < last <= len(text) for first, last in spans)
    assert spans == sorted(spans)


@given(ANY_TEXT)
def test_ascii_and_other_texts_read_alike(text: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert [*words_of(ascii_text), b"\xc3\xa9"] == words_of(ascii_text + " é")


@given(ANY_TEXT)
def test_words_are_read_as_themselves_whatever_parts_them(text: str) -> None:
    words = words_of(text)
    assert words_of("\n> ".join(word.decode() for word in words)) == words


@given(st.integers(1, 40), st.integers(0, 60))
def test_ngram_hashes_are_the_sums_they_claim(size: int, count: int) -> None:
    values = np.random.default_rng(count).integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2)
    base = 0x9E3779B97F4A7C15
    expected = [
        sum(int(value) * pow(base, size - 1 - place, 2**64) for place, value in enumerate(values[at : at + size]))
        % 2**64
        for at in range(count - size + 1)
    ]
    assert NgramHasher(values).of(size).tolist() == expected


def test_a_stream_numbers_the_words_of_the_vocabulary_and_survives_forgetting() -> None:
    vocabulary = np.sort(hash_words([b"river", b"town"]))
    lexicon = Lexicon(vocabulary)
    first = lexicon.read("The river, the town; the sea")
    assert (first.numbers != ABSENT).tolist() == [False, True, False, True, False, False]
    for start in range(0, 30_000, 5000):  # grows its tables several times
        lexicon.read(" ".join(f"w{number}" for number in range(start, start + 5000)))
    lexicon._forget()
    again = lexicon.read("The river, the town; the sea")
    assert again.hashes.tolist() == first.hashes.tolist() == hash_words(words_of("the river the town the sea")).tolist()
