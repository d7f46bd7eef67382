"""Transfer and content codings: stated and undone, doubled, listed in any order, unknown; chunks of every form."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard

from longcat.stages.data.extract.http import parse_response
from longcat.stages.data.extract.records import Rejected

PAGE = b"<html><body><p>" + b"Some text of a page. " * 40 + b"</p></body></html>"
TEXT = b"Plain text of a note, without markup.\n" * 20


def gzip_of(body: bytes) -> bytes:
    """Without the time, which would be part of the names of the tests."""
    return gzip.compress(body, mtime=0)


def chunked(body: bytes, size: int = 100, newline: bytes = b"\r\n", extension: bytes = b"", end: bytes = b"0") -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = [b"%X" % len(part) + extension + newline + part + newline for part in parts]
    return b"".join(chunks) + (end + newline + newline if end else b"")


def parse(body: bytes, headers: str, content_type: str = "text/html") -> Any:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{headers}\r\n\r\n"
    return parse_response(head.encode() + body, 1 << 20)


ZSTD = zstandard.ZstdCompressor().compress
RAW_DEFLATE: Callable[[bytes], bytes] = lambda body: zlib.compress(body, wbits=-15)  # noqa: E731

BODIES: list[tuple[str, bytes]] = [
    ("Content-Encoding: gzip", PAGE),
    ("Content-Encoding: deflate", PAGE),
    ("Content-Encoding: br", PAGE),
    ("Content-Encoding: br", TEXT),
    ("Content-Encoding: zstd", PAGE),
    ("Content-Encoding: gzip", gzip_of(gzip_of(PAGE))),
    ("Content-Encoding: gzip, gzip", gzip_of(gzip_of(PAGE))),
    ("Content-Encoding: gzip, gzip", gzip_of(PAGE)),
    ("Content-Encoding: gzip\r\nContent-Encoding: br", brotli.compress(gzip_of(PAGE))),
    ("Content-Encoding: br, gzip", gzip_of(brotli.compress(PAGE))),
    ("Content-Encoding: gzip, br", gzip_of(brotli.compress(PAGE))),
    ("Content-Encoding: deflate, zstd", ZSTD(RAW_DEFLATE(PAGE))),
    ("Content-Encoding: X-GZIP", gzip_of(PAGE)),
    ("Content-Encoding: br", gzip_of(PAGE)),
    ("Content-Type: text/html", gzip_of(PAGE)),
    ("Content-Encoding: utf-8", PAGE),
    ("Content-Encoding: UTF8", gzip_of(PAGE)),
    ("Content-Encoding: text/html", PAGE),
    ("Content-Encoding: binary", "déjà".encode("latin-1")),
    ("Content-Encoding: aws-chunked", PAGE),
    ("Content-Encoding: none, identity", PAGE),
    ("Transfer-Encoding: chunked", chunked(PAGE)),
    ("Transfer-Encoding: Chunked", chunked(PAGE, newline=b"\n")),
    ("Transfer-Encoding: chunked", chunked(PAGE, extension=b' ; name="' + b"x" * 300 + b'"')),
    ("Transfer-Encoding: chunked", chunked(PAGE, extension=b"   ")),
    ("Transfer-Encoding: chunked", chunked(PAGE, end=b"000") + b"Trailer: x\r\n\r\n"),
    ("Transfer-Encoding: identity", PAGE),
    ("Transfer-Encoding: identity, chunked", chunked(PAGE)),
    ("Transfer-Encoding: chunked", PAGE),
    ("Transfer-Encoding: chunked", b"12\r\n is the first line of a text\r\n"),
    ("Transfer-Encoding: gzip, chunked", chunked(gzip_of(PAGE))),
    ("Transfer-Encoding: chunked, gzip", gzip_of(chunked(PAGE))),
    ("Transfer-Encoding: chunked, gzip", chunked(gzip_of(PAGE))),
    ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", chunked(gzip_of(PAGE))),
    ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", gzip_of(PAGE)),
    ("Transfer-Encoding: chunked\r\nContent-Encoding: gzip", chunked(PAGE)),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", chunked(PAGE)),
    ("X-A: b\r\n  Content-Encoding: br", PAGE),
]


@pytest.mark.parametrize(("headers", "body"), BODIES)
def test_a_coding_is_undone_where_the_body_has_it(headers: str, body: bytes) -> None:
    response = parse(body, headers)
    assert response.body in (PAGE, body if body == TEXT or b"first line" in body or b"\xe9" in body else PAGE)
    assert not response.truncated


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Encoding: br", b"\xff\xfe not coded"),
        ("Content-Encoding: rot13", b"x"),
        ("Content-Encoding: compress", b"\x1f\x9d\x90" + bytes(range(200))),
        ("Content-Encoding: br", brotli.compress(PAGE)[:-5]),
        ("Content-Encoding: gzip", gzip_of(PAGE)[:-20]),
        ("Content-Encoding: gzip", gzip_of(PAGE)[:40] + b"damaged" + gzip_of(PAGE)[47:]),
    ],
)
def test_a_coding_that_is_unknown_or_damaged(headers: str, body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        parse(body, headers)
    assert caught.value.reason == "bad_content_encoding"


def test_a_download_that_is_not_stated_to_be_coded_stays_as_it_is() -> None:
    body = gzip_of(PAGE)
    assert parse(body, "X: y", content_type="application/gzip").body == body


@pytest.mark.parametrize("cut", [1, 3, 60, 130])
def test_of_a_truncated_last_chunk_is_kept_what_there_is(cut: int) -> None:
    whole = chunked(PAGE, end=b"")
    response = parse(whole[:-cut], "Transfer-Encoding: chunked")
    assert response.truncated
    assert PAGE.startswith(response.body)
    assert len(response.body) > len(PAGE) - cut - 10


def test_truncated_bodies_are_counted_and_marked(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    body = b"<p>page 1 " + b"words of a page " * 30 + b"</p>"
    cut = record(1, chunked(body)[:-60], http_headers="Transfer-Encoding: chunked\r\n")
    made = extract_bytes("x.warc", cut + record(2))
    assert made.pages == [1, 2]
    assert [d.metadata.get("http_truncated") for d in made.documents] == [True, None]
    assert made.metrics["truncated_bodies"] == 1


def test_doubled_codings_stay_within_the_limit() -> None:
    bomb = gzip_of(gzip_of(bytes(20 << 20)))
    with pytest.raises(Rejected) as caught:
        parse(bomb, "Content-Encoding: gzip")
    assert caught.value.reason == "too_large"


@pytest.mark.parametrize("separator", [b"\r\n\r\n", b"\n\n", b"\n\r\n"])
def test_headers_end_with_any_empty_line(separator: bytes) -> None:
    response = parse_response(b"HTTP/1.1 200 OK\nContent-Type: text/html" + separator + PAGE, 1 << 20)
    assert (response.status, response.headers, response.body) == (200, {"content-type": "text/html"}, PAGE)
