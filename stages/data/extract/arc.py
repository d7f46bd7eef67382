"""Reading of ARC records (versions 1.0, 1.1 and 2), the format of crawls before WARC.

Source: Burner and Kahle, Arc File Format, Internet Archive, 1996. A record is one line of blank-separated fields, the
last of which is the length of what follows: usually an HTTP response.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from longcat.stages.data.extract.parts import Extent, Start
from longcat.stages.data.extract.records import Problem
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.warc import MAX_READ_TWICE, WarcRecord, read_archive

MAX_LINE_BYTES = 64 << 10
LINE_REACH = 8192
# URL (which may contain blanks), address, date, content type, fields of version 2, length.
_FIELDS = (
    rb"[A-Za-z][A-Za-z0-9+.-]*:[^\r\n]*?",
    rb"(?:[0-9A-Fa-f.:]+|-)",
    rb"\d{8,14}",
    rb"[^ \r\n]*(?: [^ \r\n]*){0,5}?",
    rb"\d{1,15}",
)
HEADER = re.compile(b" ".join(rb"(%s)" % field for field in _FIELDS) + rb"\r?\n")
NEXT_RECORD = re.compile(rb"\n(?=" + b" ".join(_FIELDS) + rb"\r?\n)")


def read_arc(window: SourceBuffer, max_record_bytes: int, extent: Extent) -> Iterator[WarcRecord | Problem]:
    """Yield every record of a part as that of a WARC, and a problem for every unusable record or damaged range."""
    return read_archive(
        window,
        extent,
        lambda start: _read_one(window, start, max_record_bytes),
        lambda record: _checked_end(window, record),
    )


def _read_one(window: SourceBuffer, start: Start, max_record_bytes: int) -> WarcRecord | Problem:
    place = {"offset": start.offset}
    line = window.take_through(b"\n", MAX_LINE_BYTES)
    header = HEADER.fullmatch(line) if line else None
    if header is None:
        _skip_to_next(window, b"\n")
        return Problem("not_arc", "no ARC record starts here", place)
    url, length = header[1].decode("utf-8", errors="replace"), int(header[5])
    if url.startswith("filedesc:"):
        window.skip(length)
        return WarcRecord(start, "warcinfo", {}, b"")
    if length > max_record_bytes:
        window.skip(length)
        return Problem("too_large", f"{length} bytes, the limit is {max_record_bytes}", place, url=url)
    content = window.take(length)
    if len(content) < length and NEXT_RECORD.search(content):
        return _wrong_length(window, url, content, place)
    if len(content) < length:
        return Problem("truncated", f"the file ends after {len(content)} of {length} bytes", place, url=url)
    return WarcRecord(start, *_type_and_headers(header, url, content), content)


def _checked_end(window: SourceBuffer, record: WarcRecord) -> WarcRecord | Problem:
    """The record, or a problem if its end is not at its length."""
    following = window.peek(1)
    if record.type == "warcinfo" or not following or following in b"\r\n":
        return record
    if HEADER.match(window.peek(LINE_REACH)):
        return record  # its length counts the newline after it
    return _wrong_length(window, record.url, record.content, {"offset": record.offset})


def _wrong_length(window: SourceBuffer, url: str | None, content: bytes, place: dict[str, int]) -> Problem:
    """Skip to the next record, including one hidden by a wrong length."""
    hidden = window.bytes_put_back + len(content) <= MAX_READ_TWICE + window.position
    _skip_to_next(window, content if hidden else b"")
    return Problem("bad_arc_length", f"no record end after the {len(content)} bytes of its length", place, url=url)


def _skip_to_next(window: SourceBuffer, again: bytes) -> None:
    """Skip to the next header line, which may be in the bytes read last."""
    window.put_back(again)
    window.skip_to(NEXT_RECORD, LINE_REACH)


def _type_and_headers(header: re.Match[bytes], url: str, content: bytes) -> tuple[str, dict[str, str]]:
    """Type and headers that the record would have in a WARC."""
    headers = {"warc-target-uri": url, "warc-date": _iso_date(header[3].decode())}
    if content.startswith(b"HTTP/"):
        return "response", headers | {"content-type": "application/http; msgtype=response"}
    return "resource", headers | {"content-type": header[4].decode("latin-1").split(" ")[0].replace("no-type", "")}


def _iso_date(digits: str) -> str:
    """`20080101123000` as `2008-01-01T12:30:00Z`; missing parts are 0."""
    parts = digits.ljust(14, "0")
    date = "-".join((parts[:4], parts[4:6], parts[6:8]))
    return f"{date}T{parts[8:10]}:{parts[10:12]}:{parts[12:14]}Z"
