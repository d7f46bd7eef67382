"""Chat templates in the second place of published tokenizers, and what transformers makes of the same files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import CHAT_TEMPLATE, write_tokenizer
from longcat.stages.formats.tokenizer import load_tokenizer
from longcat.stages.formats.tokenizer_config import export_tokenizer_config

MESSAGES = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "q"},
    {"role": "assistant", "content": "a", "reasoning_content": "t"},
    {"role": "user", "content": "r"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]
# The roles and options of newer published templates, in a few lines.
NEWER = (
    "{% for m in messages %}<longcat_{{ m.role }}>"
    "{% if save_history_reasoning_content and m.reasoning_content %}<longcat_think>{{ m.reasoning_content }}"
    "</longcat_think>{% endif %}{{ m.content }}"
    "{% if m.role == 'user' and loop.last and enable_thinking %} /think_on {% endif %}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<longcat_assistant>{% if enable_thinking %}<longcat_think>\n{% endif %}{% endif %}"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_tokenizer(train(["the USER and the ASSISTANT"] * 3, TokenizerConfig(vocab_size=275)), folder)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A tokenizer without chat_template.jinja, as published."""
    for path in trained.iterdir():
        if path.name != "chat_template.jinja":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def state(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def theirs(folder: Path, **options: Any) -> str:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    text: str = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, **options)
    return text


@pytest.mark.parametrize("thinking", [False, True])
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("source", ["ours", "newer"])
def test_a_template_in_tokenizer_config_renders_as_in_transformers(
    source: str, kept: bool, thinking: bool, folder: Path
) -> None:
    state(folder, chat_template=CHAT_TEMPLATE.read_text() if source == "ours" else NEWER)
    options = {"enable_thinking": thinking, "save_history_reasoning_content": kept}
    expected = theirs(folder, **options)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.render_chat(MESSAGES, **options) == expected
    if source == "newer":
        assert (" /think_on " in expected, "</longcat_think>" in expected) == (thinking, kept)
        ids = tokenizer.encode_chat(MESSAGES, **options)
        assert tokenizer.special_id("<longcat_user>") in ids
        assert tokenizer.decode(ids) == expected


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_list_has_a_template_for_tools(tools: Any, folder: Path) -> None:
    entries = [{"name": "default", "template": NEWER}, {"name": "tool_use", "template": "{{ tools[0].function.name }}"}]
    state(folder, chat_template=entries)
    assert load_tokenizer(folder).render_chat(MESSAGES, tools=tools) == theirs(folder, tools=tools)
    state(folder, chat_template=entries[:1])
    assert load_tokenizer(folder).render_chat(MESSAGES, tools=tools) == theirs(folder, tools=tools)


def test_the_file_comes_before_the_configuration(folder: Path) -> None:
    state(folder, chat_template="older")
    (folder / "chat_template.jinja").write_text("newer")
    assert load_tokenizer(folder).render_chat(MESSAGES) == theirs(folder) == "newer"


BAD: list[tuple[Any, str]] = [
    (3, "chat_template is neither a string nor a list"),
    ({"name": "default"}, "chat_template is neither"),
    ([3], "chat_template is neither"),
    ([{"name": "default"}], "chat_template is neither"),
    ([{"name": 3, "template": ""}], "chat_template is neither"),
    ([{"name": str(place), "template": ""} for place in range(65)], "chat_template is neither"),
    ([{"name": "a", "template": ""}, {"name": "a", "template": ""}], "two templates of one name"),
    ("{% if", "the chat template is not valid"),
    ([{"name": "default", "template": "{% if"}], "the chat template is not valid"),
    ("x" * (1 << 19), "the chat template is larger than"),
]


@pytest.mark.parametrize(("value", "message"), BAD, ids=range(len(BAD)))
def test_a_bad_template_is_one_line_that_names_the_file(value: Any, message: str, folder: Path) -> None:
    state(folder, chat_template=value)
    with pytest.raises(InputError, match=message) as caught:
        load_tokenizer(folder)
    assert "tokenizer_config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_named_tokens_may_be_in_the_older_file(folder: Path) -> None:
    state(folder, bos_token=None, eos_token=None)
    (folder / "special_tokens_map.json").write_text('{"bos_token": {"content": "<longcat_user>"}}')
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.bos_token, tokenizer.eos_id) == ("<longcat_user>", tokenizer.special_id("</longcat_s>"))
    (folder / "special_tokens_map.json").write_text('{"bos_token": "none"}')
    with pytest.raises(
        InputError, match=r"special_tokens_map\.json: the bos_token 'none' is not among the added tokens"
    ):
        load_tokenizer(folder)


def test_a_template_of_another_name_is_not_taken_for_the_default(folder: Path) -> None:
    state(folder, chat_template=[{"name": "rag", "template": "x"}])
    with pytest.raises(InputError, match="no chat template named 'default', only rag"):
        load_tokenizer(folder).render_chat(MESSAGES)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer_config.json"])
def test_a_pipe_is_not_read(name: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    with pytest.raises(InputError, match=f"{name}: is not a regular file"):
        load_tokenizer(folder)


def test_a_written_tokenizer_states_what_versions_of_transformers_disagree_on(trained: Path, folder: Path) -> None:
    """Version 4 passes token types to the model, and pads on the right, where a batch goes on."""
    expected = {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"}
    assert json.loads((trained / "tokenizer_config.json").read_text()).items() >= expected.items()
    state(folder, **dict.fromkeys(expected))
    stated = {key: value for key, value in json.loads((folder / "tokenizer_config.json").read_text()).items() if value}
    (folder / "tokenizer_config.json").write_text(json.dumps(stated | {"padding_side": "right"}))
    export_tokenizer_config(folder, 512)
    exported = json.loads((folder / "tokenizer_config.json").read_text())
    assert exported == stated | expected | {"padding_side": "right", "model_max_length": 512}
    (folder / "tokenizer_config.json").unlink()
    export_tokenizer_config(folder, 512)
    assert not (folder / "tokenizer_config.json").exists()
