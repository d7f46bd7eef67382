"""What readers hand on: records that may become documents, and problems with a name and a place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Record:
    """One thing that may become a document.

    `key` is unique within its file; `kind` is html, text, markdown, rst, code or notebook; `content` is undecoded bytes
    with the `charset` its transport states, or text that needs no decoding. `place` says where it stands, e.g.
    `{"offset": 0}`.
    """

    key: str
    kind: str
    content: bytes | str
    place: dict[str, int]
    url: str | None = None
    charset: str | None = None
    language: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Problem:
    """One record (or one damaged stretch of a file) that gives no document.

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
    """A record that gives no document, and why."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
