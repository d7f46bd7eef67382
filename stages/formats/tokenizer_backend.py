"""The tokenizers library on untrusted files: panics become errors, and truncation and padding are disabled."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longcat.pipeline.faults import raise_fault

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

MAX_IDS = 1 << 24
MAX_ADDED_TOKENS = 1 << 16
MAX_ADDED_BYTES = 1 << 10
REASON_CHARACTERS = 200
# Short, with every kind of character that splitters and normalizers distinguish.
PROBE = "The 1st naïve e\u0301 café,\n\tif x == 'ab': 日本語 \U0001f642 "


class PanicError(ValueError):
    """The library panicked; carries its message."""


@contextmanager
def panics_told() -> Iterator[None]:
    """Turn a panic of the library, which is no `Exception`, into a `PanicError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise PanicError(one_line(error)) from None


def one_line(error: BaseException) -> str:
    """An error's message on one line, truncated."""
    return " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__


def check_state(state: Any) -> None:
    """Check that the content of tokenizer.json has the required parts, within limits.

    Raises:
        ValueError: names the key.
    """
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError("it has no model")
    added = state.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError("added_tokens is not a list of tokens")
    if len(added) > MAX_ADDED_TOKENS:
        raise ValueError(f"{len(added)} added_tokens, at most {MAX_ADDED_TOKENS} are supported")
    for number, token in enumerate(added):
        content, identifier = token.get("content"), token.get("id")
        if not isinstance(content, str) or not 0 < len(content.encode()) <= MAX_ADDED_BYTES:
            raise ValueError(f"added_tokens[{number}].content is not a string of 1 to {MAX_ADDED_BYTES} bytes")
        if type(identifier) is not int or not 0 <= identifier < MAX_IDS:
            raise ValueError(f"added_tokens[{number}].id is not an id from 0 to {MAX_IDS - 1}")
        if type(token.get("special")) is not bool:
            raise ValueError(f"added_tokens[{number}].special is neither true nor false")
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for text, identifier in vocabulary.items():
            if type(identifier) is not int or not 0 <= identifier < MAX_IDS:
                raise ValueError(f"model.vocab: the id of {text[:40]!r} is not from 0 to {MAX_IDS - 1}")


def load_backend(state: Mapping[str, Any]) -> Backend:
    """Build the library's tokenizer from the content of tokenizer.json, and test it on a short text.

    Raises:
        ValueError: it is invalid, or the test fails.
    """
    from tokenizers import Tokenizer as Backend

    # Text is never truncated or padded, whatever the file says.
    plain = {**state, "truncation": None, "padding": None}
    try:
        with muted(), panics_told():
            backend = Backend.from_str(json.dumps(plain))
            ids = backend.encode(PROBE, add_special_tokens=False).ids
            backend.decode(ids, skip_special_tokens=False)
    except Exception as error:  # the library raises plain Exception
        raise ValueError(one_line(error)) from None
    return backend


def read_vocabulary(path: Path) -> dict[str, int]:
    """Every token of a tokenizer.json with its id, including added ones.

    Raises:
        ValueError: it is not a tokenizer.
        MachineError: it could not be read.
    """
    from tokenizers import Tokenizer as Backend

    try:
        with muted(), panics_told():
            found: dict[str, int] = Backend.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises plain Exception
        raise_fault(error, path)
        raise ValueError(one_line(error)) from None
    return found


@contextmanager
def muted() -> Iterator[None]:
    """Suppress standard error: a panic writes its stack there before it can be caught."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
