"""Reading of WARC records (0.17 to 1.1, CRLF or LF), reporting and skipping damage.

The same reader handles intact and damaged files, so that damage in one record does not affect others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from longcat.stages.data.extract.parts import Extent, Start
from longcat.stages.data.extract.records import Problem
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.streams import Damage

VERSION_PREFIX = b"WARC/"
VERSION_LINE = re.compile(rb"WARC/[01]\.[0-9]{1,2}\r?\n")
VERSION_REACH = 16
HEADER_END = re.compile(rb"\n\r?\n")
HEADER_END_REACH = 3
FOLD = re.compile(r"\r?\n[ \t]+")
MAX_HEADER_BYTES = 64 << 10
DOCUMENT_TYPES = frozenset({"response", "resource", "conversion"})
# End of a record and start of another, within the content of one record.
NEXT_RECORD = re.compile(rb"\r?\n\r?\n(?=WARC/[01]\.[0-9]{1,2}\r?\n(?:WARC|Content)-)")
NEXT_REACH = 32
RECORD_START = re.compile(rb"\n(?=WARC/[01]\.[0-9]{1,2}\r?\n(?:WARC|Content)-)")
# Bytes reread to find records hidden by wrong lengths; beyond it at most as much as was read once, so that files with
# only wrong lengths are not slower.
MAX_READ_TWICE = 64 << 20


@dataclass(slots=True)
class WarcRecord:
    """One record: header names in lower case; `content` is empty for types without a document.

    `line_feeds`: the header lines end with LF, not CRLF.
    """

    start: Start
    type: str
    headers: dict[str, str]
    content: bytes
    line_feeds: bool = False

    @property
    def offset(self) -> int:
        """File offset, in a compressed file that of the member."""
        return self.start.offset

    @property
    def id(self) -> str | None:
        return self.headers.get("warc-record-id")

    @property
    def url(self) -> str | None:
        """Target URI, without the angle brackets of some writers."""
        target = self.headers.get("warc-target-uri")
        return target.strip("<>") if target else None


def read_warc(window: SourceBuffer, max_record_bytes: int, extent: Extent) -> Iterator[WarcRecord | Problem]:
    """Yield every record of a part in order, and a problem for every unusable record or damaged range."""
    return read_archive(
        window,
        extent,
        lambda start: _read_one(window, start, max_record_bytes),
        lambda record: _checked_end(window, record, max_record_bytes),
    )


def read_archive(
    window: SourceBuffer,
    extent: Extent,
    read_one: Callable[[Start], WarcRecord | Problem],
    checked_end: Callable[[WarcRecord], WarcRecord | Problem],
) -> Iterator[WarcRecord | Problem]:
    """Yield every record that `read_one` gives for its place, and a problem for every damaged range.

    A record is yielded after the bytes following it are verified, because the checksum of a gzip member comes after its
    content.
    """
    while True:
        item: WarcRecord | Problem | None = None
        damage: Damage | None = None
        place: Start | None = None
        try:
            window.skip_newlines()
            if window.at_end():
                return
            place = window.place
            if not extent.begins(place, window.position):
                return
            item = read_one(place)
            if isinstance(item, WarcRecord):
                item = checked_end(item)
            window.skip_newlines()
            window.at_end()  # peeking beyond the record reveals errors at the end of its member
        except Damage as found:
            damage = found
        # Damage after the only record of a member belongs to that record; after one of several it may not.
        if item is not None and (damage is None or place is None or damage.offset != place.offset or place.skip):
            yield item
        if damage is not None:
            if not extent.part.includes(window.place_of(damage)) and (place is None or item is not None):
                extent.stop = window.place_of(damage)  # where the next part begins
                return
            yield Problem(damage.reason, damage.detail, {"offset": damage.offset})
            if not window.recover():
                return


def _read_one(window: SourceBuffer, start: Start, max_record_bytes: int) -> WarcRecord | Problem:
    place = {"offset": start.offset}
    if window.peek(len(VERSION_PREFIX)) != VERSION_PREFIX:
        window.skip_to(VERSION_LINE, VERSION_REACH)
        return Problem("not_warc", "no WARC record starts here", place)
    block = window.take_to_match(HEADER_END, HEADER_END_REACH, MAX_HEADER_BYTES)
    headers = _parse_headers(block) if block else None
    length = headers.get("content-length", "") if headers else ""
    if headers is None or not (length.isascii() and length.isdigit() and len(length) < 16):
        window.skip(len(VERSION_PREFIX) if block is None else 0)
        window.skip_to(VERSION_LINE, VERSION_REACH)
        return Problem("bad_warc_header", "no header of a WARC record with a Content-Length", place)
    record = WarcRecord(start, headers.get("warc-type", "").lower(), headers, b"", b"\r\n" not in (block or b""))
    return _read_content(window, record, int(length), max_record_bytes)


def _read_content(window: SourceBuffer, record: WarcRecord, length: int, max_record_bytes: int) -> WarcRecord | Problem:
    place = {"offset": record.offset}
    wanted = record.type in DOCUMENT_TYPES
    if (wanted or record.line_feeds) and length <= max_record_bytes:
        record.content = window.take(length)
        found = len(record.content)
    else:
        found = window.skip(length)
    if found < length:
        # As many bytes may be missing as there were CRs before the LFs.
        stripped = record.line_feeds and length - found <= record.content.count(b"\n")
        if stripped or NEXT_RECORD.search(record.content):
            return _wrong_length(window, record, max_record_bytes)
        return Problem("truncated", f"the file ends after {found} of {length} bytes", place, record.id, record.url)
    if wanted and length > max_record_bytes:
        detail = f"{length} bytes, the limit is {max_record_bytes}"
        return Problem("too_large", detail, place, record.id, record.url)
    return record


def _checked_end(window: SourceBuffer, record: WarcRecord, max_record_bytes: int) -> WarcRecord | Problem:
    """The record, or what becomes of it if its end is not at its Content-Length."""
    following = window.peek(len(VERSION_PREFIX))
    if not following or following[:1] in b"\r\n" or following == VERSION_PREFIX:
        return record
    return _wrong_length(window, record, max_record_bytes)


def _wrong_length(window: SourceBuffer, record: WarcRecord, max_record_bytes: int) -> WarcRecord | Problem:
    """Skip to the next record, including one hidden by a wrong length.

    Where every CRLF was made an LF, as in ClueWeb09, all lengths are wrong: there the content ends at the next record.
    """
    if window.bytes_put_back + len(record.content) <= MAX_READ_TWICE + window.position:
        window.put_back(record.content)
        content = window.take_to_match(NEXT_RECORD, NEXT_REACH, max_record_bytes) if record.line_feeds else None
        if content is not None:
            record.content = content
            return record
    window.skip_to(NEXT_RECORD, NEXT_REACH)
    detail = f"no record end after the {record.headers['content-length']} bytes of its Content-Length"
    return Problem("bad_warc_length", detail, {"offset": record.offset}, record.id, record.url)


def _parse_headers(block: bytes) -> dict[str, str] | None:
    """Lower-case header names to values; None if the first line is not a WARC version."""
    if not VERSION_LINE.match(block):
        return None
    headers: dict[str, str] = {}
    lines = FOLD.sub(" ", block.decode("utf-8", errors="replace")).split("\n")
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    return headers
