"""The word stream: what it normalises, and positions of its words."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.data.decontaminate.word_stream import ABSENT, Lexicon, NgramHasher, hash_words, word_spans, words_of

# Letters with and without blanks between words, marks, joiners, invisible and compatibility forms, and wraps.
SCRIPTS = (
    "中国人学习日本語のテキストーｶﾞ㌔\U00020000กินข้าวน้ำๆຂອງກຳខ្មែរမြန်မာབོད་किताबें שָׁלוֹם كَتَبَ"
    "é\u0301\u00ad\u200b\u200c\u200d\ufe0f_ \n\u3000。、.,a1"
)
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80) | st.text(SCRIPTS, max_size=60)


def test_case_punctuation_layout_and_forms_are_ignored() -> None:
    plain = words_of("the café sells 3 eggs at 20 degrees")
    assert words_of("The CAFÉ\nsells — “3” eggs,\u00a0at\u3000２０ de\u00adgrees!") == plain
    assert words_of("the cafe\u0301 *sells* _3_ eggs\r\n> at 20 degrees") == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("日本語abc カナ", ["日本語", "abc", "カナ"]),
        ("ดื่มน้ำมาก ๆ", ["ดื่ม", "น้ำ", "มาก", "ๆ"]),
        ("किताबें पढ़ना।", ["किताबें", "पढ़ना"]),
        ("שָׁלוֹם, كَتَبَ", ["שָׁלוֹם", "كَتَبَ"]),
        ("❤️ ok 1️⃣", ["ok", "1"]),
    ],
)
def test_words_are_cut_by_script_and_keep_their_marks(text: str, words: list[str]) -> None:
    expected = [unicodedata.normalize("NFKC", word) for word in words]
    assert [word.decode() for word in words_of(text)] == [word.replace("ํา", "ำ") for word in expected]


@pytest.mark.parametrize(
    "text",
    [
        "小明有五个苹果他把其中两个送给了小红",
        "昨日の朝は早く起きて駅まで歩いて行きました",
        "เมื่อวานนี้เราไปซื้อผลไม้ที่ตลาดใกล้บ้าน",
    ],
)
def test_a_line_break_within_a_sentence_is_ignored(text: str) -> None:
    for at in range(1, len(text)):
        if not unicodedata.combining(text[at]) and unicodedata.category(text[at]) != "Mn":
            assert words_of(f"{text[:at]}\n  {text[at:]}") == words_of(text)


@given(ANY_TEXT)
def test_every_word_has_its_position(text: str) -> None:
    spans = word_spans(text)
    assert len(spans) == len(words_of(text))
    assert all(0 <= first < last <= len(text) for first, last in spans)
    assert spans == sorted(spans)


@given(ANY_TEXT)
def test_ascii_and_other_texts_give_the_same_words(text: str) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert [*words_of(ascii_text), b"\xc3\xa9"] == words_of(ascii_text + " é")


@given(ANY_TEXT)
def test_words_do_not_depend_on_their_separators(text: str) -> None:
    words = words_of(text)
    assert words_of("\n> ".join(word.decode() for word in words)) == words


@given(st.integers(1, 40), st.integers(0, 60))
def test_ngram_hashes_are_the_documented_sums(size: int, count: int) -> None:
    values = np.random.default_rng(count).integers(0, 2**63, count, dtype=np.uint64) * np.uint64(2)
    base = 0x9E3779B97F4A7C15
    expected = [
        sum(int(value) * pow(base, size - 1 - place, 2**64) for place, value in enumerate(values[at : at + size]))
        % 2**64
        for at in range(count - size + 1)
    ]
    assert NgramHasher(values).of(size).tolist() == expected


def test_a_stream_numbers_words_of_the_vocabulary_also_after_its_cache_is_cleared() -> None:
    vocabulary = np.sort(hash_words([b"river", b"town"]))
    lexicon = Lexicon(vocabulary)
    first = lexicon.read("The river, the town; the sea")
    assert (first.numbers != ABSENT).tolist() == [False, True, False, True, False, False]
    for start in range(0, 30_000, 5000):  # grows its tables several times
        lexicon.read(" ".join(f"w{number}" for number in range(start, start + 5000)))
    lexicon._forget()
    again = lexicon.read("The river, the town; the sea")
    assert again.hashes.tolist() == first.hashes.tolist() == hash_words(words_of("the river the town the sea")).tolist()
