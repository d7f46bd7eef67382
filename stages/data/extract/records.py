"""What readers take and what they hand on: files; records that may become documents, and problems with a place."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class InputFile:
    """A file to read; `source` is its name in documents. `path` may be a remote file."""

    path: Path
    source: str
    format: str


@dataclass(slots=True)
class Record:
    """A record that may become a document.

    `key` is unique within its file; `kind` is html, text, markdown, rst, code or notebook; `content` is undecoded bytes
    with the `charset` stated by the transport, or text. `place` is its position, e.g. `{"offset": 0}`. `replaced` is
    the number of characters that the reader replaced by U+FFFD.
    """

    key: str
    kind: str
    content: bytes | str
    place: dict[str, int]
    url: str | None = None
    charset: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    replaced: int = 0


@dataclass(slots=True)
class Problem:
    """A record (or damaged range of a file) without a document.

    `place` is `{"offset": bytes}`, `{"line": n}` or `{"row": n}`, counted from 0 for offsets and from 1 for the rest.
    """

    reason: str
    detail: str
    place: dict[str, int]
    key: str | None = None
    url: str | None = None

    def to_json(self, source: str) -> dict[str, Any]:
        known = {"record": self.key, "url": self.url}
        given = {name: value for name, value in known.items() if value is not None}
        return {"file": source, **self.place, **given, "reason": self.reason, "detail": self.detail}


class Rejected(Exception):  # noqa: N818 - a verdict on one record, counted and not shown as an error
    """A record is rejected, with the reason."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
