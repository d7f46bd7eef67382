"""The tokenizers library on files from anywhere: its panics become errors, and its settings cannot cut or pad text."""

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
# Short, and of every kind of character that splitters and normalizers tell apart.
PROBE = "The 1st naïve e\u0301 café,\n\tif x == 'ab': 日本語 \U0001f642 "


class PanicError(ValueError):
    """The library met what it does not expect; the message is its own."""


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
    """An error's message on one line, cut where it is long."""
    return " ".join(str(error).split())[:REASON_CHARACTERS] or type(error).__name__


def check_state(state: Any) -> None:
    """Whether the content of tokenizer.json has the parts that are used here, within bounds.

    Raises:
        ValueError: names the key.
    """
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError("it has no model")
    added = state.get("added_tokens")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise ValueError("added_tokens is no list of tokens")
    if len(added) > MAX_ADDED_TOKENS:
        raise ValueError(f"{len(added)} added_tokens, at most {MAX_ADDED_TOKENS} are taken")
    for number, token in enumerate(added):
        content, identifier = token.get("content"), token.get("id")
        if not isinstance(content, str) or not 0 < len(content.encode()) <= MAX_ADDED_BYTES:
            raise ValueError(f"added_tokens[{number}].content is no text of 1 to {MAX_ADDED_BYTES} bytes")
        if type(identifier) is not int or not 0 <= identifier < MAX_IDS:
            raise ValueError(f"added_tokens[{number}].id is no id from 0 to {MAX_IDS - 1}")
        if type(token.get("special")) is not bool:
            raise ValueError(f"added_tokens[{number}].special is neither true nor false")
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for text, identifier in vocabulary.items():
            if type(identifier) is not int or not 0 <= identifier < MAX_IDS:
                raise ValueError(f"model.vocab: the id of {text[:40]!r} is none from 0 to {MAX_IDS - 1}")


def load_backend(state: Mapping[str, Any]) -> Backend:
    """The library's tokenizer of the content of tokenizer.json, after it has encoded and decoded a short text.

    Raises:
        ValueError: it is none, or it fails.
    """
    from tokenizers import Tokenizer as Backend

    # Text is never cut or padded here, whatever a file says.
    plain = {**state, "truncation": None, "padding": None}
    try:
        with _muted(), panics_told():
            backend = Backend.from_str(json.dumps(plain))
            ids = backend.encode(PROBE, add_special_tokens=False).ids
            backend.decode(ids, skip_special_tokens=False)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(one_line(error)) from None
    return backend


def read_vocabulary(path: Path) -> dict[str, int]:
    """Every token of a tokenizer.json with its id, added ones included.

    Raises:
        ValueError: it is no tokenizer.
        MachineError: it could not be read.
    """
    from tokenizers import Tokenizer as Backend

    try:
        with _muted(), panics_told():
            found: dict[str, int] = Backend.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the library raises bare Exception
        raise_fault(error, path)
        raise ValueError(one_line(error)) from None
    return found


@contextmanager
def _muted() -> Iterator[None]:
    """Without standard error: a panic writes its stack there before anyone can catch it."""
    if sys.stderr is not None:
        sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
