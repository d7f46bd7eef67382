"""Untrusted tokenizer files: every fault is one error that names the file, never a panic or a traceback."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats.tokenizer import load_tokenizer
from longcat.stages.formats.tokenizer_backend import read_vocabulary
from longcat.stages.inference.tokenizer import EngineTokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(train(["the USER and the ASSISTANT"] * 3, TokenizerConfig(vocab_size=275)), tmp_path)
    return tmp_path


def change(folder: Path, edit: Callable[[Any], Any]) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    edit(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))


def replaced(*path: Any, by: Any) -> Callable[[Any], None]:
    def edit(state: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        state[path[-1]] = by

    return edit


BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
FAULTS: list[tuple[Callable[[Any], None], str]] = [
    # Files on which the library panics while reading or encoding.
    (replaced("model", by={**BPE, "merges": [["a", "b"]]}), "not a tokenizer"),
    (replaced("model", "continuing_subword_prefix", by="abcdef"), "not a tokenizer"),
    (
        replaced("normalizer", by={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
        "not a tokenizer: Pre",
    ),
    (replaced("pre_tokenizer", by={"type": "FixedLength", "length": 0}), "not a tokenizer: chunk size"),
    (replaced("normalizer", by={"type": "Prepend", "prepend": ""}), "not a tokenizer"),
    (replaced("decoder", by={"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1 << 40}), "not a tokenizer"),
    (replaced("pre_tokenizer", by={"type": "Split", "pattern": {"Regex": "(a"}, "behavior": "Isolated"}), "not a tok"),
    # Invalid fields.
    (replaced("model", by=[]), "it has no model"),
    (replaced("added_tokens", by={}), "added_tokens is not a list"),
    (replaced("added_tokens", by=[1]), "added_tokens is not a list"),
    (replaced("added_tokens", 2, "content", by=""), r"added_tokens\[2\]\.content is not a string"),
    (replaced("added_tokens", 2, "content", by="x" * 2000), r"added_tokens\[2\]\.content is not a string"),
    (replaced("added_tokens", 2, "id", by=1 << 40), r"added_tokens\[2\]\.id is not an id"),
    (replaced("added_tokens", 2, "id", by=-1), r"added_tokens\[2\]\.id is not an id"),
    (replaced("added_tokens", 2, "id", by=2.0), r"added_tokens\[2\]\.id is not an id"),
    (replaced("added_tokens", 2, "special", by="yes"), r"added_tokens\[2\]\.special"),
    (lambda state: state["added_tokens"][2].pop("content"), r"added_tokens\[2\]\.content"),
    (lambda state: state["model"]["vocab"].update(zzz=4_000_000_000), "the id of 'zzz' is not from 0"),
]


@pytest.mark.parametrize(("edit", "message"), FAULTS, ids=range(len(FAULTS)))
def test_a_bad_tokenizer_is_one_line(
    edit: Callable[[Any], None], message: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(folder, edit)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(folder)
    assert str(folder / "tokenizer.json") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "not a tokenizer: nested too deeply"),
        ('{"a": 1, "a": 2}', "not a tokenizer: duplicate key 'a'"),
        ("{}", "it has no model"),
        ("[]", "it has no model"),
        ("\xff", "not a tokenizer: not UTF-8"),
    ],
)
def test_a_file_that_is_not_a_tokenizer(text: str, message: str, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=message):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a JSON object"),
        ("3", "is not a JSON object"),
        ("{", "not JSON"),
        ('{"eos_token": {"lstrip": false}}', "eos_token is neither a string nor an object with `content`"),
        ('{"eos_token": ["</longcat_s>"]}', "eos_token is neither"),
        ('{"eos_token": 2}', "eos_token is neither"),
        ('{"eos_token": {"content": {"content": "x"}}}', "eos_token is neither"),
        ('{"eos_token": "<none>"}', "the eos_token '<none>' is not among the added tokens"),
    ],
)
def test_a_bad_tokenizer_config_is_one_line(text: str, message: str, folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(folder)
    assert str(folder / "tokenizer_config.json") in str(caught.value)


def test_invalid_files(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"chat_template\.jinja: not UTF-8"):
        load_tokenizer(folder)
    (folder / "chat_template.jinja").write_text("{% if")
    with pytest.raises(InputError, match=r"chat_template\.jinja: the chat template is not valid"):
        load_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    with pytest.raises(InputError, match=r"tokenizer\.json: is not a regular file"):
        load_tokenizer(folder)


def test_text_is_never_cut_or_padded(folder: Path) -> None:
    """Many published files contain truncation and padding settings of an earlier call."""
    ids = load_tokenizer(folder).encode("the USER and the ASSISTANT")
    cut = {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0}
    fill = {"strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    change(folder, replaced("truncation", by=cut))
    change(folder, replaced("padding", by={**fill, "pad_type_id": 0, "pad_token": "x"}))
    assert load_tokenizer(folder).encode("the USER and the ASSISTANT") == ids


def test_a_vocabulary_without_bytes_cannot_be_served(folder: Path) -> None:
    unigram = {"type": "Unigram", "unk_id": 0, "vocab": [["a", 0.0], ["b", -1.0]]}
    change(folder, replaced("model", by=unigram))
    with pytest.raises(InputError, match="no byte-level decoder"):
        EngineTokenizer.load(folder)


WEIRD: list[Any] = [None, True, -1, 0, 1 << 32, 1 << 64, 1.5, "", "\U0001f642", "(?", [], {}, [[]], [1], {"a": 1}]


def test_mutations_are_read_or_refused(folder: Path) -> None:
    chosen, original = random.Random(5), (folder / "tokenizer.json").read_text()
    for _ in range(300):
        state = json.loads(original)
        _mutate(state, chosen)
        (folder / "tokenizer.json").write_text(json.dumps(state))
        try:
            tokenizer = EngineTokenizer.load(folder)
        except InputError:
            continue
        assert tokenizer.encode("the USER")


def _mutate(state: Any, chosen: random.Random) -> None:
    while True:
        keys = list(state) if isinstance(state, dict) else range(len(state))
        key = chosen.choice(list(keys))
        child = state[key]
        if not isinstance(child, (dict, list)) or not child or chosen.random() < 0.2:
            state[key] = chosen.choice(WEIRD)
            return
        state = child


def test_the_vocabulary_is_read_or_refused(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    known = read_vocabulary(folder / "tokenizer.json")
    assert (len(known), known["</longcat_s>"]) == (275, 2)
    change(folder, replaced("model", by={**BPE, "merges": [["a", "b"]]}))
    with pytest.raises(ValueError, match="out of range"):
        read_vocabulary(folder / "tokenizer.json")
    assert capfd.readouterr().err == ""
