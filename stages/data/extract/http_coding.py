"""Content codings of HTTP bodies, decoded within a limit."""

from __future__ import annotations

import io
import zlib

from longcat.pipeline.faults import is_fault
from longcat.stages.data.extract.records import Rejected

CODED_READ_BYTES = 64 << 10
ALIASES = {"x-gzip": "gzip", "x-deflate": "deflate", "zlib": "deflate", "brotli": "br", "x-br": "br", "x-zstd": "zstd"}
# What servers write that codes nothing; every charset label is such a word as well.
NOTHING = frozenset(("", "none", "identity", "plain", "text", "binary", "7bit", "8bit", "raw", "unicode", "default"))
MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd"}
PLAIN_BYTES = 1024
MIN_PLAIN_BYTES = 16
# Bytes that text does not have; ESC is in ISO-2022-JP.
CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\f\r\x1b")


def coding_of(stated: str) -> str:
    """Lower-case name of a coding, without parameters; `identity` for words that name none."""
    from longcat.stages.data.extract.charset.labels import encoding_name

    name = stated.partition(";")[0].strip(" \t\"'").lower()
    if name in NOTHING or "/" in name or encoding_name(name) is not None:
        return "identity"
    return ALIASES.get(name, name)


def is_coded(body: bytes, stated: list[str], *, stated_only: bool) -> str | None:
    """The coding that the body has: gzip or zstd by its first bytes, others if they are stated and it looks coded."""
    for coding, magic in MAGIC.items():
        if body.startswith(magic) and (coding in stated or not stated_only):
            return coding
    for coding in reversed(stated):
        if coding in ("deflate", "br") and not looks_plain(body):
            return coding
    return None


def looks_plain(body: bytes) -> bool:
    """Whether a body looks like text that is not coded."""
    start = body[:PLAIN_BYTES]
    if start.translate(None, CONTROLS) != start:
        return False
    if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return True
    try:
        # A cut within a character costs up to three bytes.
        start[: max(len(start) - 3, 0) if len(body) > PLAIN_BYTES else None].decode()
    except UnicodeDecodeError:
        return False
    return len(start) >= MIN_PLAIN_BYTES or not body


def decode_body(body: bytes, coding: str, limit: int) -> bytes:
    """Body without one coding.

    Raises:
        Rejected: `bad_content_encoding` if it is damaged or ends early, `too_large` beyond the limit.
    """
    if coding == "gzip":
        return _inflated(body, 31, limit)
    if coding == "deflate":
        return _inflated(body, 15 if body[:1] == b"\x78" else -15, limit)
    return _read_coded(body, coding, limit)


def _inflated(body: bytes, window_bits: int, limit: int) -> bytes:
    parts: list[bytes] = []
    size, rest = 0, body
    # A gzip body may have several members.
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
