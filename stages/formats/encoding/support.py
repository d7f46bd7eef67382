"""Which tokenizers gigatoken can encode for: it ignores some parts of tokenizer.json, so each is checked here."""

from __future__ import annotations

from typing import Any

import orjson

from longcat.stages.formats.split_pattern import NEAREST, SPLIT

BYTES = 256


class UnsupportedError(ValueError):
    """gigatoken does not give the ids of a tokenizer; says why."""


def supported(state: dict[str, Any]) -> tuple[bytes, bool]:
    """The tokenizer.json for gigatoken, and whether texts must be cut at groups of Han and kana.

    Raises:
        UnsupportedError: names the part that gigatoken does not have.
    """
    _check_model(state["model"])
    if state.get("normalizer") is not None:
        raise UnsupportedError("the tokenizer has a normalizer")
    *splits, last = _steps(state.get("pre_tokenizer"))
    _check_bytes_step(last, use_regex=not splits)
    groups = [_expression(step) for step in splits] == [SPLIT]
    # Added tokens would be found in plain text; all of them are in the way of being text here.
    plain = {**state, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    if groups:
        plain["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [_with_expression(splits[0], NEAREST), last]}
    return orjson.dumps(plain), groups


def _check_model(model: dict[str, Any]) -> None:
    if model.get("type") != "BPE":
        raise UnsupportedError(f"the model is {model.get('type')}, not BPE")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise UnsupportedError(f"the model has {key}")
    letters = {text for text in model["vocab"] if len(text) == 1}
    missing = len(set(byte_letters()) - letters)
    if missing:
        raise UnsupportedError(f"{missing} bytes are not in the vocabulary")


def byte_letters() -> list[str]:
    """The letter that byte-level BPE has for every byte."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, BYTES)}
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(BYTES)]


def _steps(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer, at least one."""
    if not isinstance(pre_tokenizer, dict):
        raise UnsupportedError("there is no pre-tokenizer")
    steps = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    if not isinstance(steps, list) or not steps or not all(isinstance(step, dict) for step in steps):
        raise UnsupportedError("the pre-tokenizer has no steps")
    return steps


def _check_bytes_step(step: dict[str, Any], *, use_regex: bool) -> None:
    """Check that the last step is that of bytes, and splits by itself only if no step before does."""
    if step.get("type") != "ByteLevel":
        raise UnsupportedError(f"the pre-tokenizer ends with {step.get('type')}, not ByteLevel")
    if step.get("add_prefix_space", True) or step.get("use_regex", True) != use_regex:
        raise UnsupportedError("the pre-tokenizer ByteLevel adds a blank, or splits in addition or not at all")


def _expression(step: dict[str, Any]) -> str:
    """The regular expression of a step that splits."""
    pattern = step.get("pattern")
    expression = pattern.get("Regex") if isinstance(pattern, dict) else None
    if step.get("type") != "Split" or not isinstance(expression, str):
        raise UnsupportedError(f"the pre-tokenizer has a step {step.get('type')} that is no Split by an expression")
    if step.get("behavior") != "Isolated" or step.get("invert"):
        raise UnsupportedError("the pre-tokenizer's Split does not isolate what it matches")
    return expression


def _with_expression(step: dict[str, Any], expression: str) -> dict[str, Any]:
    return {**step, "pattern": {"Regex": expression}}
