"""Text to ids and back: nothing is lost, digits and CJK stand apart, plain text yields no special token."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.pipeline.errors import InputError
from longcat.stages.data.tokenizer.bpe import bounded_runs, train, untrained
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats.special_tokens import SPECIAL_TOKENS
from longcat.stages.formats.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "the river and the sea, 2024 2024",
    "the 中文 and 中文 text",
    "これは テスト です",
    "  indented\n\n  lines\t.",
] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train(TEXTS, TokenizerConfig(vocab_size=290)), path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


ANY_TEXT = st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1"))


@given(text=ANY_TEXT | st.lists(st.sampled_from([*SPECIAL_TOKENS, "x", " "])).map("".join))
def test_decoding_gives_back_any_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(len(SPECIAL_TOKENS) <= number < tokenizer.vocab_size for number in ids)


def test_merges_are_used(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("the the")) == 3


def test_a_batch_is_encoded_like_its_texts(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_batch(TEXTS) == [tokenizer.encode(text) for text in TEXTS]
    assert tokenizer.encode_batch([]) == []


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It's 2024!", ["It", "'s", " ", "2", "0", "2", "4", "!"]),
        ("ABC中文def", ["ABC", "中文", "def"]),
        ("中文テスト한국어", ["中文", "テスト", "한국어"]),
        ("a  b\n\n c", ["a", " ", " b", "\n\n", " c"]),
        ("x==y\n", ["x", "==", "y", "\n"]),
        ("नमस्ते दुनिया", ["नमस्ते", " दुनिया"]),
    ],
)
def test_text_is_split_before_merging(text: str, pieces: list[str]) -> None:
    split = untrained().pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in split] == pieces


def test_the_split_loses_nothing_and_digits_stand_alone(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("2024")) == 4


def test_ids_of_the_ends_and_of_markup(tokenizer: Tokenizer) -> None:
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 3)
    assert tokenizer.special_id("<longcat_think>") == 6
    assert tokenizer.special_id("<other>") is None


def test_decoding_can_leave_out_what_is_no_content(tokenizer: Tokenizer) -> None:
    ids = [1, *tokenizer.encode("the"), 6, 2, 3]
    assert tokenizer.decode(ids) == "<longcat_s>the<longcat_think></longcat_s><longcat_pad>"
    assert tokenizer.decode(ids, skip_special=True) == "the<longcat_think>"


def test_bytes_that_are_no_text_are_shown_as_such(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("é")[:1]) == "\ufffd"


def test_half_a_character_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode("a\ud800")
    with pytest.raises(InputError, match="surrogate"):
        tokenizer.encode_chat([{"role": "user", "content": "\ud800"}])


def test_a_missing_tokenizer_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"added_tokens": []}', '{"added_tokens": [{"id": "x"}]}'])
def test_a_broken_tokenizer_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="not a tokenizer"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_of_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.stages.formats.tokenizer.MAX_TOKENIZER_BYTES", 10)
    (tmp_path / "tokenizer.json").write_text("x" * 11)
    with pytest.raises(InputError, match="the limit is 10"):
        load_tokenizer(tmp_path)


def test_long_runs_are_cut_for_learning_and_nothing_is_lost() -> None:
    for text in ("", "short words only", "a" * 2500, "\n" * 1001 + "b", "漢字" * 900 + " x", "y " * 3000):
        pieces = list(bounded_runs(text))
        assert "".join(pieces) == text
        assert all(len(run) <= 1000 for piece in pieces for run in re.findall(r"\S+|\s+", piece))
    assert list(bounded_runs("y " * 3000)) == ["y " * 3000]
