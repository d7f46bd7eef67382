"""For which tokenizers gigatoken encodes: never for one of which it gives other ids."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats import encoding
from longcat.stages.formats.encoding import Encoded, Encoder, open_encoder, support
from longcat.stages.formats.encoding.compare import MAX_CHARACTERS, compare
from longcat.stages.formats.split_pattern import NEAREST

TEXTS = ["It's the river,  and\n\n the sea 2024; 中文と日本語 – naïve<s>\r\n", "", "zwei  Dörfer\t!!!"]
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
    r"\s+(?!\S)|\s+"
)

GPT2_EXPRESSION = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

State = dict[str, Any]
Change = Callable[[State], None]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train(TEXTS * 4, TokenizerConfig(vocab_size=290)), path)
    return path


@pytest.fixture
def changed(trained: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """Folder of the tokenizer with its tokenizer.json changed."""

    def change_state(change: Change) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(trained, folder)
        state = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(state)
        (folder / "tokenizer.json").write_text(json.dumps(state), encoding="utf-8")
        return folder

    return change_state


def same_ids(encoder: Encoder) -> bool:
    found, wanted = encoder.encode(TEXTS), encoder.reference(TEXTS)
    return np.array_equal(found.ids, wanted.ids) and np.array_equal(found.lengths, wanted.lengths)


def expression(text: str) -> Change:
    return lambda state: state["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=text)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: None,
        lambda state: state.update(pre_tokenizer=GPT2),
        expression(NEAREST),
        expression(LLAMA3),
        lambda state: state["model"].update(ignore_merges=True),
        lambda state: [token.update(special=False, normalized=True) for token in state["added_tokens"]],
        lambda state: state.update(truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
                                               "stride": 0}),
    ],
    ids=["ours", "gpt2", "qwen3.5", "llama3", "ignore_merges", "plain added tokens", "truncation"],
)  # fmt: skip
def test_supported(changed: Callable[[Change], Path], change: Change) -> None:
    encoder = open_encoder(changed(change))
    assert (encoder.library, encoder.reason) == ("gigatoken", None)
    assert same_ids(encoder)


def drop_a_byte(state: State) -> None:
    del state["model"]["vocab"]["ÿ"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (expression(r"\w+"), "Unknown pre_tokenizer Split regexes"),
        # gigatoken takes this one for GPT-2's.
        (lambda state: state.update(pre_tokenizer={**GPT2, "use_regex": False}), "splits in addition or not at all"),
        (lambda state: state["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "splits in addition"),
        (lambda state: state.update(pre_tokenizer={**GPT2, "add_prefix_space": True}), "adds a blank"),
        (lambda state: state.update(pre_tokenizer={"type": "Whitespace"}), "ends with Whitespace, not ByteLevel"),
        (lambda state: state.update(pre_tokenizer=None), "no pre-tokenizer"),
        (lambda state: state["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"), "does not isolate"),
        (lambda state: state["pre_tokenizer"]["pretokenizers"][0].update(invert=True), "does not isolate"),
        (lambda state: state["pre_tokenizer"]["pretokenizers"].insert(0, {"type": "Digits", "individual_digits": True}),
         "a step Digits"),
        (lambda state: state.update(normalizer={"type": "NFC"}), "a normalizer"),
        (lambda state: state["model"].update(dropout=0.1), "has dropout"),
        (lambda state: state["model"].update(byte_fallback=True), "has byte_fallback"),
        (drop_a_byte, "1 bytes are not in the vocabulary"),
    ],
)  # fmt: skip
def test_others_are_left_to_tokenizers(changed: Callable[[Change], Path], change: Change, reason: str) -> None:
    folder = changed(change)
    encoder = open_encoder(folder)
    assert encoder.library == "tokenizers"
    assert reason in (encoder.reason or "")
    if "dropout" not in reason:
        assert same_ids(encoder)
    with pytest.raises(InputError, match="gigatoken cannot encode"):
        open_encoder(folder, "gigatoken")


@pytest.mark.parametrize(
    "other",
    [LLAMA3, NEAREST.replace(r"[\p{L}\p{M}]", r"\p{L}").replace(r"\p{M}", ""), GPT2_EXPRESSION],
    ids=["llama3", "qwen2", "gpt2"],
)
def test_one_that_cuts_otherwise_is_found_by_probing(
    trained: Path, monkeypatch: pytest.MonkeyPatch, other: str
) -> None:
    """Also where the few merges of this vocabulary would not show it."""
    monkeypatch.setattr(support, "NEAREST", other)
    encoder = open_encoder(trained)
    assert encoder.library == "tokenizers"
    assert "ids other than tokenizers does" in (encoder.reason or "")


def test_without_gigatoken_tokenizers_encodes(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "longcat.stages.formats.encoding.giga", raising=False)
    monkeypatch.delattr(encoding, "giga", raising=False)
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    encoder = open_encoder(trained)
    assert (encoder.library, encoder.reason) == ("tokenizers", "gigatoken is not installed")
    assert same_ids(encoder)


def test_tokenizers_can_be_chosen(trained: Path) -> None:
    assert open_encoder(trained, "tokenizers").describe()["library"].startswith("tokenizers ")
    assert open_encoder(trained).describe()["library"].startswith("gigatoken ")


def test_a_difference_names_document_and_place(trained: Path) -> None:
    encoder = open_encoder(trained)
    encoded = encoder.encode(TEXTS)
    assert compare(encoder, TEXTS, encoded, "abc", [0, 1, 2], "shard-7") == 3
    ids = encoded.ids.copy()
    ids[-1] += 1
    wrong = Encoded(ids, encoded.lengths, encoded.n_bytes)
    assert compare(encoder, TEXTS, wrong, "abc", [0, 1], "shard-7") == 2
    last = int(encoded.lengths[2]) - 1
    with pytest.raises(IntegrityError, match=f"document 'c': .* from token {last} on") as caught:
        compare(encoder, TEXTS, wrong, "abc", [2], "shard-7")
    assert caught.value.where == "shard-7"


def test_of_a_long_text_the_beginning_is_compared(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = open_encoder(trained)
    texts = ["ab 中" * MAX_CHARACTERS]
    encoded = encoder.encode(texts)
    asked: list[int] = []
    reference = encoder.reference
    monkeypatch.setattr(encoder, "reference", lambda part: asked.append(len(part[0])) or reference(part))
    assert compare(encoder, texts, encoded, ["long"], [0], "shard") == 1
    assert asked == [MAX_CHARACTERS]
