"""Words, n-grams and signatures in bulk say what the plain definitions and datasketch say, bit for bit."""

from __future__ import annotations

import random
import unicodedata

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from longcat.stages.data.dedup import signatures
from longcat.stages.data.dedup.signatures import EMPTY_SLOT, Signer, distinct_ngrams, draw_permutations, ngram_hashes
from longcat.stages.data.text import hashed_words as words
from longcat.stages.data.text.hashed_words import composed, exact_digest, normalised_words, word_hashes

SIGNS = "ab Z_9.\n\t-\0é\u0301ßﬁＨ第句カﾊﾟกินข้าวน้ำखि\u200d\u00a0\u2026\U0001f600\U00020000\ud800İ"
TEXTS = st.lists(st.text(SIGNS, max_size=60) | st.text(max_size=40), max_size=12)


def datasketch_signature(text: str, num_perm: int, ngram: int, seed: int) -> np.ndarray:
    hashes, _ = ngram_hashes(*word_hashes([text]), ngram)
    sketch = MinHash(num_perm=num_perm, seed=seed, hashfunc=int, scheme="affine32")
    sketch.update_batch(hashes.tolist())
    return sketch.hashvalues


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**32 - 1))
def test_signatures_are_those_of_datasketch(texts: list[str], num_perm: int, ngram: int, seed: int) -> None:
    found = Signer(draw_permutations(num_perm, seed), ngram).sign(texts)
    assert found.dtype == np.uint32
    assert found.shape == (len(texts), num_perm)
    for text, row in zip(texts, found, strict=True):
        assert np.array_equal(row, datasketch_signature(text, num_perm, ngram, seed))


@pytest.mark.parametrize("step", [1, 7, 64])
def test_signatures_do_not_depend_on_the_steps(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    generator = random.Random(1)
    texts = [
        " ".join(str(generator.randrange(50)) for _ in range(size)) for size in (0, 1, 5, 200, 0, 4, 63, 64, 65, 9)
    ]
    whole = Signer(draw_permutations(16, 1), 3).sign(texts)
    monkeypatch.setattr(signatures, "NGRAMS_A_STEP", step)
    assert np.array_equal(Signer(draw_permutations(16, 1), 3).sign(texts), whole)


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_words_are_told_apart_as_the_definition_tells_them(texts: list[str]) -> None:
    for alike in ([text for text in texts if text.isascii()], [text for text in texts if not text.isascii()]):
        hashes, counts = word_hashes(alike)
        expected = [normalised_words(text) for text in alike]
        assert counts.tolist() == [len(found) for found in expected]
        of_word = dict(zip((word for found in expected for word in found), hashes.tolist(), strict=True))
        assert [of_word[word] for found in expected for word in found] == hashes.tolist()
        assert len(set(of_word.values())) == len(of_word)


@settings(max_examples=200, deadline=None)
@given(st.text(SIGNS, max_size=40) | st.text(max_size=40))
def test_normal_forms_by_line_are_those_of_the_text(text: str) -> None:
    assert words._normalised(text) == unicodedata.normalize("NFKC", text).casefold()


@settings(max_examples=200, deadline=None)
@given(st.text(SIGNS + " \n\u3000\u2028\x1f", max_size=40) | st.text(max_size=40))
def test_blanks_are_folded_as_split_finds_them(text: str) -> None:
    expected = " ".join(unicodedata.normalize("NFC", text).split())
    assert composed(text) == expected.encode("utf-8", "surrogatepass")


def test_a_word_has_one_hash_in_ascii_and_other_texts() -> None:
    assert word_hashes(["Hello world"])[0].tolist() == word_hashes(["Ｈello … world"])[0].tolist()


@pytest.mark.parametrize("text", ["abc, " * 50, "é" + "abc, " * 50])
def test_a_long_text_is_cut_between_words(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    whole, _ = word_hashes([text, text])
    monkeypatch.setattr(words, "BLOCK_CHARACTERS", 37)
    cut, counts = word_hashes([text, text])
    assert counts.tolist() == [len(normalised_words(text))] * 2
    assert cut.tolist() == whole.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｈello, WORLD! ﬁn… 第一句。", ["hello", "world", "fin", "第", "一句"]),
        ("吾輩は猫で\nある。", ["吾輩", "は", "猫", "で", "ある"]),
        ("ดื่มน้ำที่ตลาด", ["ดื่ม", "น้ำ", "ที่", "ตลาด"]),
        ("किताबें पढ़ना।", ["किताबें", "पढ़ना"]),
        ("שָׁלוֹם كَتَبَ می\u200cخواهم", ["שָׁלוֹם", "كَتَبَ", "می\u200cخواهم"]),
        ("བོད་ཡིག །", ["བོད", "ཡིག"]),
    ],
)
def test_words_ignore_case_punctuation_and_forms_and_keep_marks(text: str, expected: list[str]) -> None:
    found = [unicodedata.normalize("NFC", word) for word in normalised_words(text)]
    assert found == [unicodedata.normalize("NFC", word) for word in expected]


def test_a_short_text_has_one_ngram_and_an_empty_one_none() -> None:
    texts = ["", "a", "a b c d", "a b c d e", "a b c d e f g"]
    hashes, counts = ngram_hashes(*word_hashes(texts), 5)
    assert counts.tolist() == [0, 1, 1, 1, 3]
    assert len(set(hashes.tolist())) == 5  # "a b c d e" stands in two of them
    assert (Signer(draw_permutations(8, 1), 5).sign(["...", "a"]) == EMPTY_SLOT).all(axis=1).tolist() == [True, False]


def test_ngrams_do_not_reach_into_the_next_document() -> None:
    together, counts = ngram_hashes(*word_hashes(["a b c", "d e f"]), 2)
    alone = [ngram_hashes(*word_hashes([text]), 2)[0].tolist() for text in ("a b c", "d e f")]
    assert counts.tolist() == [2, 2]
    assert together.tolist() == alone[0] + alone[1]


def test_signatures_estimate_jaccard() -> None:
    generator = random.Random(1)
    original = [f"w{generator.randrange(4000)}" for _ in range(2000)]
    for rate in (0.01, 0.03, 0.08):
        copy = [f"e{generator.random()}" if generator.random() < rate else word for word in original]
        texts = [" ".join(original), " ".join(copy)]
        first, second = (set(distinct_ngrams(text, 5).tolist()) for text in texts)
        estimates = Signer(draw_permutations(112, 1), 5).sign(texts)
        found = float((estimates[0] == estimates[1]).mean())
        assert found == pytest.approx(len(first & second) / len(first | second), abs=0.13)  # three standard errors


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("one  two\n\nthree", " one two three ", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("One two", "one two", False),
        ("version 1", "version 2", False),
    ],
)
def test_the_digest_ignores_layout_alone(first: str, second: str, same: bool) -> None:
    assert (exact_digest(first) == exact_digest(second)) is same
