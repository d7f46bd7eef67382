"""One page, one text: HTTP messages, encodings, HTML, and pages made to break the parser."""

from __future__ import annotations

import errno
import gzip
import signal
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import brotli
import pytest
import zstandard

from longcat.pipeline.errors import MachineError
from longcat.stages.data.extract.guard import PageGuard, _Child
from longcat.stages.data.extract.html import extract_page
from longcat.stages.data.extract.http import parse_response
from longcat.stages.data.extract.records import Rejected

PAGE = b"<html><body><p>Some text of a page.</p></body></html>"


def response(body: bytes, headers: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("br", brotli.compress),
        ("zstd", zstandard.ZstdCompressor().compress),
        ("identity", bytes),
    ],
)
def test_content_codings_are_undone_within_the_limit(coding: str, encode: Callable[[bytes], bytes]) -> None:
    message = response(encode(PAGE), f"Content-Encoding: {coding}\r\n")
    assert parse_response(message, 1000).body == PAGE
    bomb = response(encode(bytes(20 << 20)), f"Content-Encoding: {coding}\r\n")
    with pytest.raises(Rejected) as caught:
        parse_response(bomb, 1 << 20)
    assert caught.value.reason == "too_large"


def test_coding_that_the_crawler_undid_already() -> None:
    assert parse_response(response(PAGE, "Content-Encoding: gzip\r\n"), 1000).body == PAGE


@pytest.mark.parametrize("headers", ["Content-Encoding: br\r\n", "Content-Encoding: rot13\r\n"])
def test_coding_that_cannot_be_undone(headers: str) -> None:
    with pytest.raises(Rejected) as caught:
        parse_response(response(b"\xff\xfe not coded", headers), 1000)
    assert caught.value.reason == "bad_content_encoding"


def test_chunks_are_joined_and_plain_bodies_left_alone() -> None:
    chunked = b"10;x=y\r\n" + PAGE[:16] + b"\r\n%x\r\n" % len(PAGE[16:]) + PAGE[16:] + b"\r\n0\r\n\r\n"
    assert parse_response(response(chunked, "Transfer-Encoding: chunked\r\n"), 1000).body == PAGE
    assert parse_response(response(PAGE, "Transfer-Encoding: chunked\r\n"), 1000).body == PAGE


def test_no_http_response() -> None:
    with pytest.raises(Rejected) as caught:
        parse_response(b"<html>no header</html>", 1000)
    assert caught.value.reason == "bad_http"


def test_main_content_title_and_language() -> None:
    html = """<html lang="de-AT"><head><title>Ein\n Titel</title></head><body>
    <nav><a href="/a">Start</a> <a href="/b">Kontakt</a></nav>
    <main><h1>Überschrift</h1><p>Der Absatz mit <a href="http://x.example/">Verweis</a>.</p>
    <ol><li>eins und noch etwas mehr</li><li>zwei, drei und vier Wörter</li></ol>
    <p>Ein zweiter Absatz, der hinter der Liste steht.</p><img alt="ein Bild" src="x.png"><pre>a  =  1\n  b</pre></main>
    <footer>Impressum</footer></body></html>"""
    page = extract_page(html.encode(), None)
    assert (page.title, page.language) == ("Ein Titel", "de-AT")
    assert "Der Absatz mit Verweis." in page.text
    assert "1. eins und noch" in page.text
    assert "a  =  1\n  b" in page.text
    for absent in ("x.example", "ein Bild", "Kontakt", "Impressum"):
        assert absent not in page.text


def test_page_that_would_run_for_hours_is_given_up_and_the_next_one_is_read() -> None:
    guard = PageGuard()
    try:
        with pytest.raises(Rejected) as caught:
            guard.extract(b"<div>" * 200_000 + b"x", None, 0.5)
        assert caught.value.reason == "timeout"
        assert guard.extract(PAGE, None, 10).text == "Some text of a page."
    finally:
        guard.close()


@pytest.fixture
def guard() -> Iterator[PageGuard]:
    made = PageGuard()
    yield made
    made.close()


def dying(signals: list[int], starts: list[int]) -> type[_Child]:
    """Children that die by these signals, one after the other, when they are given a page; later ones live."""

    class Dying(_Child):
        def __init__(self) -> None:
            super().__init__()
            starts.append(self._process.pid)

        def ask(self, request: bytes, data: bytes) -> dict[str, Any]:
            if signals:
                self._process.send_signal(signals.pop(0))
                self._process.wait()
            return super().ask(request, data)

    return Dying


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_killed_by_somebody_else_costs_no_page(
    guard: PageGuard, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    starts: list[int] = []
    monkeypatch.setattr("longcat.stages.data.extract.guard._Child", dying([number], starts))
    assert guard.extract(PAGE, None, 10).text == "Some text of a page."
    assert len(starts) == 2


def test_a_child_killed_twice_ends_the_stage(guard: PageGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    monkeypatch.setattr("longcat.stages.data.extract.guard._Child", dying([signal.SIGKILL] * 2, starts))
    with pytest.raises(MachineError, match=r"parses pages: .*killed by SIGKILL \(out of memory\?\) \(run again"):
        guard.extract(PAGE, None, 10)
    assert len(starts) == 2
    assert guard.extract(PAGE, None, 10).text == "Some text of a page."


def test_a_page_has_crashed_when_two_fresh_children_did(guard: PageGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    crashes: list[int] = []
    monkeypatch.setattr("longcat.stages.data.extract.guard._Child", dying(crashes, starts))
    assert guard.extract(PAGE, None, 10).text
    crashes += [signal.SIGSEGV] * 2  # that of the old child does not count
    assert guard.extract(PAGE, None, 10).text == "Some text of a page."
    crashes += [signal.SIGSEGV, signal.SIGABRT, signal.SIGSEGV]
    with pytest.raises(Rejected) as caught:
        guard.extract(PAGE, None, 10)
    assert (caught.value.reason, len(starts)) == ("crashed", 5)
    assert guard.extract(PAGE, None, 10).text == "Some text of a page."


def test_a_child_that_cannot_be_started_ends_the_stage(guard: PageGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any, **options: Any) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("subprocess.Popen", refuse)
    with pytest.raises(MachineError, match="parses pages: Resource temporarily unavailable"):
        guard.extract(PAGE, None, 10)


def test_guard_gives_what_extraction_gives() -> None:
    guard = PageGuard()
    try:
        for data, charset in ((PAGE, None), ("<p>café déjà</p>".encode("latin-1"), "latin-1"), (b"", None)):
            assert guard.extract(data, charset, 10) == extract_page(data, charset)
    finally:
        guard.close()


def test_empty_and_odd_html_gives_no_text_and_no_error() -> None:
    for data in (b"", b"<", b"<!doctype html>", b"</html>", b"<title>only</title>", b"\xff" * 100):
        page: Any = extract_page(data, "no-such-charset")
        assert isinstance(page.text, str)
