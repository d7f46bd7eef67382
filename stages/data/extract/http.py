"""HTTP message in a WARC response record: status, headers and decoded body."""

from __future__ import annotations

import re
from dataclasses import dataclass

from longcat.stages.data.extract.http_coding import MAGIC, coding_of, decode_body, is_coded, looks_plain
from longcat.stages.data.extract.records import Rejected

MAX_HEADER_BYTES = 64 << 10
HEADER_END = re.compile(rb"\r?\n\r?\n")
FOLD = re.compile(r"\r?\n[ \t]+")
# A hexadecimal size, with extensions of any kind.
CHUNK_LINE = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]{0,4096})?\r?\n")
LISTED = ("content-encoding", "transfer-encoding")
TEXT_TYPES = re.compile(r"\s*(?:$|text/|application/[\w.+-]*(?:xml|html|json|script))", re.IGNORECASE)
# A body that does not start like these was decoded already.
UNDONE_WITHOUT_MAGIC = frozenset(("chunked", "identity", *MAGIC))
# A body that is still coded after that is no page.
MAX_CODINGS = 5


@dataclass(slots=True)
class HttpResponse:
    """One response; header names in lower case. `truncated`: its last chunk is missing or incomplete."""

    status: int
    headers: dict[str, str]
    body: bytes
    truncated: bool = False


def parse_response(block: bytes, max_body_bytes: int) -> HttpResponse:
    """Parse a response and decode its transfer and content codings.

    Many crawlers decode a body and keep the header, decode one of two codings, or list codings in another order, so a
    coding is undone only where the body has it.

    Raises:
        Rejected: `bad_http` if it is not an HTTP response, `bad_content_encoding` if its coding cannot be decoded,
            `too_large` if the body is larger than `max_body_bytes`.
    """
    end = HEADER_END.search(block, 0, MAX_HEADER_BYTES)
    head, body = (block[: end.start()], block[end.end() :]) if end else (block[:MAX_HEADER_BYTES], b"")
    first, _, lines = head.decode("latin-1").partition("\n")
    version, _, rest = first.partition(" ")
    status = rest.strip()[:3]
    if not version.startswith("HTTP/") or not (status.isascii() and status.isdigit()):
        raise Rejected("bad_http", "the record is not an HTTP response")
    headers = _parse_headers(lines)
    body, truncated = _decoded(body, headers, max_body_bytes)
    if len(body) > max_body_bytes:
        raise Rejected("too_large", f"{len(body)} bytes, the limit is {max_body_bytes}")
    return HttpResponse(int(status), headers, body, truncated)


def _parse_headers(lines: str) -> dict[str, str]:
    """Lower-case names to the first value; of `LISTED` all values, separated by commas."""
    headers: dict[str, str] = {}
    for line in FOLD.sub(" ", lines).split("\n"):
        name, colon, value = line.partition(":")
        name, value = name.strip().lower(), value.strip()
        if colon and name in LISTED and name in headers:
            headers[name] += f", {value}"
        elif colon:
            headers.setdefault(name, value)
    return headers


def _decoded(body: bytes, headers: dict[str, str], limit: int) -> tuple[bytes, bool]:
    """Body without its codings, and whether its last chunk is missing or incomplete."""
    stated = [
        coding_of(name) for header in reversed(LISTED) for name in headers.get(header, "").split(",") if name.strip()
    ]
    is_text = TEXT_TYPES.match(headers.get("content-type", "")) is not None
    truncated = False
    for _ in range(MAX_CODINGS):
        if "chunked" in stated and (joined := _without_chunks(body)) is not None:
            body, truncated = joined
            stated.remove("chunked")
        elif coding := is_coded(body, stated, stated_only=not is_text):
            body = decode_body(body, coding, limit)
            stated = [name for name in stated if name != coding]
        else:
            break
    left = [name for name in stated if name not in UNDONE_WITHOUT_MAGIC]
    if left and not looks_plain(body):
        raise Rejected("bad_content_encoding", f"the body is neither plain nor {', '.join(left)[:80]}")
    return body, truncated


def _without_chunks(body: bytes) -> tuple[bytes, bool] | None:
    """Joined chunks, and whether the last one is missing or incomplete, of which is kept what there is.

    None if the body is not chunked.
    """
    parts: list[bytes] = []
    at = 0
    while line := CHUNK_LINE.match(body, at):
        size = int(line[1], 16)
        if size == 0:
            return b"".join(parts), False
        parts.append(body[line.end() : line.end() + size])
        at = line.end() + size
        if at > len(body):
            break
        at += 2 if body.startswith(b"\r\n", at) else 1 if body.startswith(b"\n", at) else 0
    joined = b"".join(parts)
    # A text may start with a line that looks like the size of a chunk.
    return (joined, True) if len(parts) > 1 or joined.lstrip().startswith((b"<", *MAGIC.values())) else None
