"""The format of a tool call between its tags: a name and a JSON object of arguments."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

# What precedes the arguments in the published format; blanks may differ.
HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')
# A longer start is no head, so that the search for one does not grow with the text.
HEAD_CHARACTERS = 1024
AFTER = re.compile(r"\s*(?:\}\s*)?")


class Call(NamedTuple):
    """A complete call, with the text before, of and after its arguments."""

    name: str
    before: str
    arguments: str
    after: str = ""


class ObjectScanner:
    """Finds the end of a JSON object in text that comes in pieces; what is inside is not checked."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._escaped = False

    def scan(self, text: str) -> int | None:
        """Characters up to and including the end of the object, None if it does not end in this piece."""
        for index, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_text:
                self._escaped = character == "\\"
                self._in_text = character != '"'
            elif character == '"':
                self._in_text = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None


def parse_name(head: re.Match[str]) -> str | None:
    """The function's name in a match of `HEAD`."""
    try:
        name = json.loads(head.group(1))
    except ValueError:
        return None
    return str(name) or None


def parse_call(body: str) -> Call | None:
    """The call in the text between the tags, None if it is damaged."""
    head = HEAD.match(body)
    if head is None:
        return _in_other_order(body)
    size = ObjectScanner().scan(body[head.end() :])
    name = parse_name(head)
    if size is None or name is None:
        return None
    arguments, after = body[head.end() : head.end() + size], body[head.end() + size :]
    if not isinstance(_value(arguments), dict) or not AFTER.fullmatch(after):
        return None
    return Call(name, body[: head.end()], arguments, after)


def _in_other_order(body: str) -> Call | None:
    """Calls whose keys come in another order, or without arguments."""
    value = _value(body)
    if not isinstance(value, dict) or not value.keys() <= {"name", "arguments"}:
        return None
    name, arguments = value.get("name"), value.get("arguments", {})
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return Call(name, body, json.dumps(arguments, ensure_ascii=False))


def _value(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
