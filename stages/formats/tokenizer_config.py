"""tokenizer_config.json for other programs: what they otherwise take from defaults that differ between versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longcat.pipeline.errors import InputError
from longcat.pipeline.files import atomic_write, pretty_json
from longcat.pipeline.json_text import parse_json
from longcat.stages.formats.tokenizer_files import read_file

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
MAX_BYTES = 16 << 20
# transformers 4 passes token types to a model that takes none, and pads where generation continues.
EXPLICIT = {"model_input_names": ["input_ids", "attention_mask"], "padding_side": "left"}


def export_tokenizer_config(folder: Path, context: int) -> None:
    """State in `folder` what other programs need, and the context length of the model in tokens; no file, no change.

    Raises:
        InputError: the file is not a JSON object.
    """
    path = folder / TOKENIZER_CONFIG
    if path.is_file():
        stated = read_object(path)
        atomic_write(path, pretty_json({**EXPLICIT, **stated, "model_max_length": context}))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file.

    Raises:
        InputError: it is not a regular file, too large, or not a JSON object.
    """
    if not path.exists():
        return {}
    try:
        stated = parse_json(read_file(path, MAX_BYTES))
    except ValueError as error:
        raise InputError(f"not JSON: {error}", where=str(path)) from None
    if not isinstance(stated, dict):
        raise InputError("is not a JSON object", where=str(path))
    return stated
