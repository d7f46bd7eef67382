"""Words of scripts without blanks: where texts are cut, and what is never cut."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.data.text.character_kinds import codes_of, kinds_in
from longcat.stages.data.text.script_words import SEPARATOR, separated, word_spans

TEXTS = {
    "zh": ("他说：“好的。”然后走了。", ["他", "说", "：“", "好的", "。”", "然后", "走了", "。"]),
    "zh-mixed": ("我用Python3写程序", ["我", "用", "Python3", "写", "程序"]),
    "ja": ("ジョン・スミスは猫である。", ["ジョン", "・", "スミス", "は", "猫", "で", "ある", "。"]),
    "th": ("ดื่มน้ำมาก ๆ", ["ดื่ม", "น้ำ", "มาก", "ๆ"]),
    "lo": ("ປະເທດລາວມີພູເຂົາ", ["ປະເທດ", "ລາວ", "ມີ", "ພູເຂົາ"]),
    "km": ("រាជធានីគឺភ្នំពេញ។", ["រាជធានី", "គឺ", "ភ្នំពេញ", "។"]),
    "my": ("နိုင်ငံတစ်ခုဖြစ်သည်။", ["နိုင်ငံ", "တစ်", "ခု", "ဖြစ်သည်", "။"]),
    "bo": ("བོད་ཡིག་ཡིན།", ["བོད་", "ཡིག་", "ཡིན།"]),
    "hi": ("किताबें पढ़ना।", ["किताबें", "पढ़ना।"]),
    "fa": ("می\u200cخواهم بروم", ["می\u200cخواهم", "بروم"]),
    "ko": ("학교에 갑니다.", ["학교에", "갑니다."]),
}
LETTERS = "中国的人在學習日本語のテキストー々กินข้าวน้ำๆຂອງກຳປະເທດខ្មែរភ្នំမြန်မာနိုင်ငံ\U00020000"


@pytest.mark.parametrize("language", TEXTS)
def test_words_by_script(language: str) -> None:
    text, words = TEXTS[language]
    assert separated(text, kinds_in(text)).split() == words


def test_texts_without_such_scripts_are_the_same_object() -> None:
    for text in ("Plain English.", "Curly “quotes” — and café", "Привет, мир", "שָׁלוֹם"):
        assert separated(text, kinds_in(text)) is text


@given(st.text(LETTERS + " \n。、.a1é\u0301\u200d\u200c", max_size=40))
def test_separation_only_adds_and_never_before_a_mark(text: str) -> None:
    parted = separated(text, kinds_in(text))
    assert parted.replace(SEPARATOR, "") == text
    for part in parted.split(SEPARATOR)[1:]:
        assert not part or unicodedata.category(part[0]) not in ("Mn", "Mc") or part[0] in "\u0301"


@given(st.text(LETTERS, min_size=1, max_size=40))
def test_a_word_alone_is_one_word(text: str) -> None:
    for start, end in zip(*map(list, word_spans(codes_of(text))), strict=True):
        assert [bounds.tolist() for bounds in word_spans(codes_of(text[start:end]))] == [[0], [end - start]]
