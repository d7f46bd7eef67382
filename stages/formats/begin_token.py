"""The tokens that a tokenizer puts before a text, as `tokenizer.json` says it: by its post-processor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.stages.formats.tokenizer_backend import panics_told

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

# Those that add tokens.
_ADDING = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
_TEXT = "a"


def begin_ids(backend: Backend) -> tuple[int, ...]:
    """Ids that the tokenizer adds before a text."""
    with panics_told():
        plain, whole = (backend.encode(_TEXT, add_special_tokens=added).ids for added in (False, True))
    for place in range(len(whole) - len(plain) + 1):
        if plain and whole[place : place + len(plain)] == plain:
            return tuple(whole[:place])
    return ()


def with_begin(state: Mapping[str, Any], token: str, number: int) -> dict[str, Any]:
    """Content of a tokenizer.json that adds this token before a text, and nothing else."""
    first, text = {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    return {**state, "post_processor": _joined([*_others(state), template])}


def without_begin(state: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a tokenizer.json that adds no token to a text."""
    return {**state, "post_processor": _joined(_others(state))}


def _others(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Post-processors that add no tokens."""
    given = state.get("post_processor")
    if given is None:
        return []
    parts = given["processors"] if given.get("type") == "Sequence" else [given]
    return [part for part in parts if part.get("type") not in _ADDING]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    if len(parts) > 1:
        return {"type": "Sequence", "processors": parts}
    return parts[0] if parts else None
