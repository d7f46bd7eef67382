"""Chat templates of a tokenizer folder, by name, from the places where published tokenizers have them.

`chat_template.jinja` if there is one, else `chat_template` in tokenizer_config.json: a string, or a list of objects
with `name` and `template`. As in transformers, a conversation with tools takes the template `tool_use` if there is one,
every other one `default`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.stages.formats.chat_template import ChatTemplate
from longcat.stages.formats.tokenizer_config import TOKENIZER_CONFIG
from longcat.stages.formats.tokenizer_files import read_file

TEMPLATE_FILE = "chat_template.jinja"
MAX_TEMPLATE_BYTES = 256 << 10
MAX_TEMPLATES = 64
DEFAULT, WITH_TOOLS = "default", "tool_use"


def read_templates(folder: Path, tokenizer_config: dict[str, Any]) -> dict[str, ChatTemplate]:
    """Templates by name; empty if there are none.

    Raises:
        InputError: a template is too large, not UTF-8 or not Jinja, or the list has another form.
    """
    path = folder / TEMPLATE_FILE
    if path.exists():
        return {DEFAULT: _template(_text(path), str(path))}
    where = str(folder / TOKENIZER_CONFIG)
    return {name: _template(source, where) for name, source in _stated(tokenizer_config, where).items()}


def _text(path: Path) -> str:
    try:
        return read_file(path, MAX_TEMPLATE_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 (byte {error.start})", where=str(path)) from None


def _stated(tokenizer_config: dict[str, Any], where: str) -> dict[str, str]:
    """Sources by name of `chat_template` in tokenizer_config.json."""
    stated = tokenizer_config.get("chat_template")
    if stated is None or isinstance(stated, str):
        return {} if stated is None else {DEFAULT: stated}
    if not isinstance(stated, list) or not all(_is_named(entry) for entry in stated) or len(stated) > MAX_TEMPLATES:
        raise InputError("chat_template is neither a string nor a list of `name` and `template`", where=where)
    found = {entry["name"]: entry["template"] for entry in stated}
    if len(found) != len(stated):
        raise InputError("chat_template has two templates of one name", where=where)
    return found


def _is_named(entry: Any) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in ("name", "template"))


def _template(source: str, where: str) -> ChatTemplate:
    if len(source.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise InputError(f"the chat template is larger than {MAX_TEMPLATE_BYTES} bytes", where=where)
    try:
        return ChatTemplate(source)
    except InputError as error:
        raise InputError(error.what, where=where, hint=error.hint) from None
