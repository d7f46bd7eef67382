"""Pydantic validation errors as sentences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

UNKNOWN, MISSING = "extra_forbidden", "missing"


@dataclass(frozen=True)
class Problem:
    """One validation problem: location, pydantic's error type, message, and value."""

    keys: tuple[str | int, ...]
    kind: str
    message: str
    found: Any

    @property
    def path(self) -> str:
        """Keys joined by dots; empty for the whole value."""
        return ".".join(map(str, self.keys))

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.keys else self.message


def problems_of(error: ValidationError) -> list[Problem]:
    """All problems, in pydantic's order; messages start in lower case."""
    return [
        Problem(item["loc"], item["type"], _message(item["msg"]), item["input"])
        for item in error.errors(include_url=False, include_context=False)
    ]


def _message(text: str) -> str:
    text = text.removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def reason_of(error: Exception) -> str:
    """One line on why a file cannot be read: the first problem of a ValidationError, or the first line of the error."""
    if isinstance(error, ValidationError):
        return str(problems_of(error)[0])
    return next(iter(str(error).splitlines()), type(error).__name__)
