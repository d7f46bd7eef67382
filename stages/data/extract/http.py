"""The HTTP message inside a WARC response record: status, headers and the body with its codings undone."""

from __future__ import annotations

import io
import zlib
from dataclasses import dataclass

from longcat.pipeline.faults import is_fault
from longcat.stages.data.extract.records import Rejected

MAX_HEADER_BYTES = 64 << 10
CODED_READ_BYTES = 64 << 10


@dataclass(slots=True)
class HttpResponse:
    """One response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_response(block: bytes, max_body_bytes: int) -> HttpResponse:
    """Split a response and undo its transfer and content coding.

    Raises:
        Rejected: `bad_http` if it is no HTTP response, `bad_content_encoding` if its coding cannot be undone,
            `too_large` if the body is larger than `max_body_bytes`.
    """
    separator = b"\r\n\r\n" if block.find(b"\r\n\r\n", 0, MAX_HEADER_BYTES) >= 0 else b"\n\n"
    end = block.find(separator, 0, MAX_HEADER_BYTES)
    head, body = (block[:end], block[end + len(separator) :]) if end >= 0 else (block[:MAX_HEADER_BYTES], b"")
    first, *lines = head.decode("latin-1").splitlines() or [""]
    version, _, rest = first.partition(" ")
    status = rest[:3]
    if not version.startswith("HTTP/") or not (status.isascii() and status.isdigit()):
        raise Rejected("bad_http", "the record holds no HTTP response")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers.setdefault(name.strip().lower(), value.strip())
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _without_chunks(body)
    for coding in reversed([name.strip().lower() for name in headers.get("content-encoding", "").split(",")]):
        body = _decoded(body, coding, max_body_bytes)
    if len(body) > max_body_bytes:
        raise Rejected("too_large", f"{len(body)} bytes, the limit is {max_body_bytes}")
    return HttpResponse(int(status), headers, body)


def _without_chunks(body: bytes) -> bytes:
    """The chunks joined; the body as it is where it has none, since many crawlers undo them and keep the header."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\r\n", at, at + 64)
        size_text = body[at:end].split(b";")[0].strip() if end >= 0 else b""
        try:
            size = int(size_text, 16)
        except ValueError:
            size = -1
        if size < 0 or end + 2 + size > len(body):
            return body if not parts else b"".join(parts)
        if size == 0:
            return b"".join(parts)
        parts.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def _decoded(body: bytes, coding: str, limit: int) -> bytes:
    if coding in ("", "identity", "none"):
        return body
    if coding in ("gzip", "x-gzip"):
        # Many crawlers undo the coding and keep the header.
        return _inflated(body, 31, limit) if body.startswith(b"\x1f\x8b") else body
    if coding == "deflate":
        return _inflated(body, 15 if body[:1] == b"\x78" else -15, limit)
    if coding in ("br", "zstd"):
        return _read_coded(body, coding, limit)
    raise Rejected("bad_content_encoding", f"unknown coding {coding[:40]!r}")


def _inflated(body: bytes, window_bits: int, limit: int) -> bytes:
    parts: list[bytes] = []
    size, rest = 0, body
    # A gzip body may be several members, one after the other.
    while not parts or (window_bits == 31 and rest.startswith(b"\x1f\x8b")):
        inflate = zlib.decompressobj(wbits=window_bits)
        try:
            parts.append(inflate.decompress(rest, limit + 1 - size))
        except zlib.error as error:
            raise Rejected("bad_content_encoding", str(error)) from None
        size += len(parts[-1])
        if size > limit:
            raise Rejected("too_large", f"more than {limit} bytes decoded")
        if not inflate.eof:
            raise Rejected("bad_content_encoding", f"the coded body ends early, after {size} bytes of text")
        rest = inflate.unused_data
    return b"".join(parts)


def _read_coded(body: bytes, coding: str, limit: int) -> bytes:
    from fastwarc.stream_io import BrotliReader, ZstdReader

    reader = (BrotliReader if coding == "br" else ZstdReader)(io.BytesIO(body))
    parts, size = [], 0
    try:
        while size <= limit and (part := reader.read(CODED_READ_BYTES)):
            parts.append(part)
            size += len(part)
    except OSError as error:
        if is_fault(error):
            raise
        raise Rejected("bad_content_encoding", str(error)) from None
    if size > limit:
        raise Rejected("too_large", f"more than {limit} bytes decoded")
    return b"".join(parts)
