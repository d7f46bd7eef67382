"""WARC 1.0/1.1 records out of a window, with damage named and passed over.

One reader serves whole and damaged files alike, so that damage in one record cannot change what is read of the others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from longcat.stages.data.extract.records import Problem
from longcat.stages.data.extract.streams import Damage
from longcat.stages.data.extract.window import Window

VERSION_PREFIX = b"WARC/1."
VERSION_LINE = re.compile(rb"WARC/1\.[0-9]\r?\n")
VERSION_REACH = 16
MAX_HEADER_BYTES = 64 << 10
DOCUMENT_TYPES = frozenset({"response", "resource", "conversion"})
# The end of a record and the beginning of another, inside what should be one record's content.
NEXT_RECORD = re.compile(rb"\r\n\r\n(?=WARC/1\.[0-9]\r?\nWARC-)")
NEXT_REACH = 32
# Read twice to find what wrong lengths have swallowed; beyond it, no more than was read once, so that a file of nothing
# but wrong lengths takes no longer than another.
MAX_READ_TWICE = 64 << 20


@dataclass(slots=True)
class WarcRecord:
    """One record: header names in lower case; `content` is empty for types that hold no document."""

    offset: int
    type: str
    headers: dict[str, str]
    content: bytes

    @property
    def id(self) -> str | None:
        return self.headers.get("warc-record-id")

    @property
    def url(self) -> str | None:
        """The target, without the angle brackets that some writers put round it."""
        target = self.headers.get("warc-target-uri")
        return target.strip("<>") if target else None


def read_warc(window: Window, max_record_bytes: int) -> Iterator[WarcRecord | Problem]:
    """Every record in order, and a problem for every record or damaged stretch that cannot be used.

    A record is handed on once the bytes behind it are known to be whole too, because the checksum of a gzip member
    comes after its content.
    """
    before: int | None = None
    while True:
        item: WarcRecord | Problem | None = None
        damage: Damage | None = None
        try:
            window.skip_newlines()
            if window.at_end():
                return
            offset = window.offset
            item = _read_one(window, offset, max_record_bytes)
            if isinstance(item, WarcRecord):
                item = _checked_end(window, item)
            window.skip_newlines()
            window.at_end()  # the first look beyond the record brings out what is wrong with its member's end
        except Damage as found:
            damage = found
        if item is not None:
            # Damage behind the only record of a member is that record's own; behind one of several it need not be.
            if damage is None or damage.offset != offset or before == offset:
                yield item
            before = offset
        if damage is not None:
            yield Problem(damage.reason, damage.detail, {"offset": damage.offset})
            if not window.recover():
                return


def _read_one(window: Window, offset: int, max_record_bytes: int) -> WarcRecord | Problem:
    place = {"offset": offset}
    if window.peek(len(VERSION_PREFIX)) != VERSION_PREFIX:
        window.skip_to(VERSION_LINE, VERSION_REACH)
        return Problem("not_warc", "no WARC record begins here", place)
    block = window.take_through(b"\r\n\r\n", MAX_HEADER_BYTES)
    headers = _parse_headers(block) if block else None
    length = headers.get("content-length", "") if headers else ""
    if headers is None or not (length.isascii() and length.isdigit() and len(length) < 16):
        window.skip(len(VERSION_PREFIX) if block is None else 0)
        window.skip_to(VERSION_LINE, VERSION_REACH)
        return Problem("bad_warc_header", "no header of a WARC record with a Content-Length", place)
    record = WarcRecord(offset, headers.get("warc-type", "").lower(), headers, b"")
    return _read_content(window, record, int(length), max_record_bytes)


def _read_content(window: Window, record: WarcRecord, length: int, max_record_bytes: int) -> WarcRecord | Problem:
    place = {"offset": record.offset}
    wanted = record.type in DOCUMENT_TYPES
    if wanted and length <= max_record_bytes:
        record.content = window.take(length)
        found = len(record.content)
    else:
        found = window.skip(length)
    if found < length and NEXT_RECORD.search(record.content):
        return _wrong_length(window, record)
    if found < length:
        return Problem("truncated", f"the file ends after {found} of {length} bytes", place, record.id, record.url)
    if wanted and length > max_record_bytes:
        detail = f"{length} bytes, the limit is {max_record_bytes}"
        return Problem("too_large", detail, place, record.id, record.url)
    return record


def _checked_end(window: Window, record: WarcRecord) -> WarcRecord | Problem:
    """The record, or a problem where something else than its end comes where its Content-Length says."""
    following = window.peek(len(VERSION_PREFIX))
    if not following or following[:1] in b"\r\n" or following == VERSION_PREFIX:
        return record
    return _wrong_length(window, record)


def _wrong_length(window: Window, record: WarcRecord) -> Problem:
    """Stand before the next record, also before one that a length too great has swallowed."""
    if window.bytes_put_back + len(record.content) <= MAX_READ_TWICE + window.position:
        window.put_back(record.content)
    window.skip_to(NEXT_RECORD, NEXT_REACH)
    length = record.headers["content-length"]
    detail = f"no record ends after the {length} bytes that its Content-Length says"
    return Problem("bad_warc_length", detail, {"offset": record.offset}, record.id, record.url)


def _parse_headers(block: bytes) -> dict[str, str] | None:
    """Header names in lower case to values; None where the first line names no WARC version."""
    if not VERSION_LINE.match(block):
        return None
    headers: dict[str, str] = {}
    for line in block.decode("utf-8", errors="replace").split("\r\n")[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers
