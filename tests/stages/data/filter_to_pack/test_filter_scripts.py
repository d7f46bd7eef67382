"""The rules count words, sentences and lines in every script."""

from __future__ import annotations

import pytest

from longcat.stages.data.rules.c4 import C4Lines, clean, count_sentences, whole
from longcat.stages.data.rules.code import measure as measure_code
from longcat.stages.data.rules.fineweb import measure as measure_fineweb
from longcat.stages.data.rules.gopher_quality import measure_quality
from longcat.stages.data.rules.gopher_repetition import measure_repetition
from longcat.stages.data.rules.view import view_text
from longcat.stages.data.text.character_kinds import kinds_in
from longcat.stages.data.text.sentences import ends_sentence

ZH = "春天到了，城外的小河开始涨水。\n孩子们放学以后都跑到河边去看鱼。\n“走吧。”\n天气很好。"
JA = "駅前の本屋は朝八時に店を開ける。\n「はい。」\n雨の日には客が少ない。"
TH = "เช้าวันนี้อากาศดีมาก เราจึงออกไปเดินเล่นริมแม่น้ำ\nเด็ก ๆ วิ่งเล่นกันอย่างสนุกสนาน"


def words(text: str) -> list[str]:
    view = view_text(text)
    names = {number: word for word, number in view.numbers.items()}
    return [names[number] for number in view.word_ids.tolist()]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他说：“好的。”", ["他", "说", "：", "“", "好的", "。", "”"]),
        ("Python3でした。", ["Python3", "で", "した", "。"]),
        ("ดื่มน้ำมาก", ["ดื่ม", "น้ำ", "มาก"]),
        ("བོད་ཡིག་ཡིན།", ["བོད་", "ཡིག་", "ཡིན", "།"]),
        ("किताबें पढ़ीं। वह गया.", ["किताबें", "पढ़ीं", "।", "वह", "गया", "."]),
        ("שָׁלוֹם, עוֹלָם.", ["שָׁלוֹם", ",", "עוֹלָם", "."]),
        ("كَتَبَ الدَّرْسَ؟", ["كَتَبَ", "الدَّرْسَ", "؟"]),
        ("رفت می\u200cخواهم", ["رفت", "می\u200cخواهم"]),
    ],
)
def test_words_are_counted_by_script(text: str, expected: list[str]) -> None:
    assert words(text) == expected
    assert all(
        letters == any(map(str.isalpha, word))
        for letters, word in zip(view_text(text).has_letter.tolist(), expected, strict=True)
    )


@pytest.mark.parametrize("text", [ZH, JA, TH])
def test_no_line_of_a_sentence_is_removed(text: str) -> None:
    cleaned, values = clean(view_text(text), C4Lines())
    assert cleaned.text == text
    assert values["lines_removed"] == 0


@pytest.mark.parametrize("text", [ZH, JA, TH])
def test_no_line_of_a_sentence_is_removed_for_its_end(text: str) -> None:
    assert clean(view_text(text), C4Lines(require_terminal_punctuation=True))[0].text == text


@pytest.mark.parametrize(
    ("text", "menu"), [(ZH, "首页\n登录\n关于我们"), (JA, "ホーム\nログイン"), (TH, "หน้าแรก\nเข้าสู่ระบบ")]
)
def test_lines_of_one_or_two_words_are_removed(text: str, menu: str) -> None:
    assert clean(view_text(f"{menu}\n{text}"), C4Lines())[0].text.endswith(text)
    assert clean(view_text(f"首页\n登录\n{ZH}"), C4Lines())[0].text == ZH


def test_a_word_of_a_long_line_without_blanks_is_not_too_long() -> None:
    line = "春天到了城外的小河开始涨水" * 100
    assert clean(view_text(line), C4Lines())[0].text == line


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("第一句。第二句！第三句？", 3),
        ("他说：“好。”然后走了。", 2),
        ("これは一つ．これは二つ．", 2),
        ("यह पहला है। यह दूसरा है।", 2),
        ("هل هذا الأول؟ نعم۔ هذا الثاني.", 3),
        ("Это первое. «Это второе.» Это третье!", 3),
        ("Τι είναι αυτό; Είναι ένα βιβλίο.", 2),
        ("Սա առաջինն է։ Սա երկրորդն է։", 2),
        ("ይህ አንድ ነው። ይህ ሁለት ነው።", 2),
        ("នេះជាមួយ។ នេះជាពីរ។", 2),
        ("เช้านี้อากาศดี เราจึงออกไปเดินเล่น เด็ก ๆ วิ่งเล่น", 5),
        ("Home » News » Today", 1),
    ],
)
def test_counts_sentences_in_every_script(text: str, sentences: int) -> None:
    assert count_sentences(text, kinds_in(text)) == sentences


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("他说：“好的。”", True),
        ("「はい」と言った。」", True),
        ("真是没想到……", True),
        ("यह किताब है।", True),
        ("كيف حالك؟", True),
        ("«Да.»", True),
        ("Τι είναι αυτό;", True),
        ("རེད།", True),
        ("เขาเดินไปตลาด", True),
        ("ລາວໄປຕະຫຼາດ", True),
        ("首页", False),
        ("Главная", False),
        ("הבית", False),
        ("int x = 1;", False),
        ("Read more…", False),
    ],
)
def test_tells_lines_that_end_a_sentence(line: str, ends: bool) -> None:
    assert ends_sentence(line) is ends


def test_fineweb_counts_lines_ended_by_quotes_and_words_by_script() -> None:
    text = "“走吧。”\n「そうだね！」\n首页\nكيف حالك؟"
    values = measure_fineweb(whole(view_text(text)), 30)
    assert values["terminal_line_fraction"] == 0.75
    assert measure_fineweb(whole(view_text(ZH)), 30)["newlines_per_word"] < 0.15


def test_ngrams_are_of_words_not_of_clauses() -> None:
    text = (
        "春天到了，城外的小河开始涨水。孩子们放学以后，都跑到河边去，看河里的鱼。老人坐在桥上，晒着太阳，谈论收成。"
        "秋天的时候，镇上的面包店，每天早上六点开门，店主总是先扫干净台阶，再把刚出炉的面包，摆到窗台上。"
    )
    values = measure_repetition(view_text(text))
    assert max(values[f"top_{size}_gram"] for size in (2, 3, 4)) < 0.16
    repeated = measure_repetition(view_text("欢迎光临本店，" * 20))
    assert repeated["top_3_gram"] > 0.18
    assert repeated["duplicate_5_grams"] > 0.15


def test_ellipses_and_bullets_of_east_asia_are_counted() -> None:
    view = view_text("・第一项内容。。。\n●第二项内容……\n■第三项的内容")
    values = measure_quality(view, ())
    assert values["bullet_line_fraction"] == 1
    assert values["ellipsis_line_fraction"] == pytest.approx(2 / 3)


def test_marks_are_letters_of_code() -> None:
    assert measure_code("किताबें")["alphanumeric_fraction"] == 1
