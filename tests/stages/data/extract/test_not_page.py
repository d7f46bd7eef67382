"""Responses that are no pages, by content type, URL and beginning; and pages and texts that only look like them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from longcat.stages.data.extract.not_page import reason_of_content

HTML, TEXT = "text/html", "text/plain"
BODIES: list[tuple[str, str, bytes]] = [
    ("robots_txt", TEXT, b"# comment\nUser-agent: *\nDisallow: /private\n"),
    ("robots_txt", HTML, b"\xef\xbb\xbfSitemap: http://x.example/sitemap.xml\r\n"),
    ("crawler_log", TEXT, b"--2024-01-02 03:04:05--  http://x.example/\nResolving x.example... 1.2.3.4\n"),
    ("stylesheet", "text/css; charset=utf-8", b"body { color: red }"),
    ("stylesheet", TEXT, b"/* theme */\n@import url(x.css);\n"),
    ("stylesheet", HTML, b"/* a */ .nav, .menu > li:hover { margin: 0 auto; padding: 1px }"),
    ("script", "application/javascript", b"alert(1)"),
    ("script", "text/javascript", b"alert(1)"),
    ("script", TEXT, b"/*! jQuery v3 */\n!function(e,t){return 1}(window)"),
    ("script", HTML, b"// x\nvar a = document.cookie;\n"),
    ("script", HTML, b"window.dataLayer = window.dataLayer || [];"),
    ("script", HTML, b"'use strict';\nrun()"),
    ("json", "application/json", b'{"a": 1}'),
    ("json", "application/vnd.api+json", b"{}"),
    ("json", HTML, b' {"a": [1, 2], "b": "<p>"}\n'),
    ("json", TEXT, b"[1, 2, 3]"),
    ("feed", "application/rss+xml", b"<rss></rss>"),
    ("feed", "application/atom+xml; charset=utf-8", b"<feed></feed>"),
    ("feed", "text/xml", b'<?xml version="1.0"?>\n<!-- x -->\n<rss version="2.0"><channel></channel></rss>'),
    ("feed", HTML, b'<?xml version="1.0"?><feed xmlns="http://www.w3.org/2005/Atom"></feed>'),
    ("sitemap", "application/xml", b'<?xml version="1.0"?><urlset xmlns="x"><url></url></urlset>'),
    ("sitemap", "", b'<?xml version="1.0"?><sitemapindex></sitemapindex>'),
    ("dns", "text/dns", b"20240102030405\nx.example. 300 IN A 1.2.3.4\n"),
    ("content_type", "application/xml", b"<?xml version='1.0'?><data></data>"),
]


@pytest.mark.parametrize(("reason", "content_type", "body"), BODIES)
def test_responses_that_are_no_pages(
    extract_bytes: Any, record: Callable[..., bytes], reason: str, content_type: str, body: bytes
) -> None:
    made = extract_bytes("x.warc", record(1, body, content_type=content_type) + record(2))
    assert made.counts["dropped"] == {reason: 1}
    assert made.pages == [2]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://x.example/robots.txt", "robots_txt"),
        ("http://x.example/robots.txt?x=1", "robots_txt"),
        ("http://x.example/ads.txt", "ads_txt"),
        ("http://x.example/theme/Main.CSS?v=3", "stylesheet"),
        ("http://x.example/a.min.js", "script"),
        ("http://x.example/data.json", "json"),
        ("http://x.example/index.rss", "feed"),
        ("metadata://gnu.org/software/wget/warc/wget.log", "crawler_log"),
        ("http://[bad/robots.txt", None),
        ("http://x.example/notes.txt", None),
        (None, None),
    ],
)
def test_reasons_by_url(url: str | None, reason: str | None) -> None:
    assert reason_of_content(url, b"some words of a text") == reason


@pytest.mark.parametrize("url", ["http://x.example/robots.txt", "http://x.example/main.css"])
def test_a_page_at_such_a_url_is_a_page(url: str) -> None:
    assert reason_of_content(url, b"<!DOCTYPE html><html><body><p>Not found</p></body></html>") is None


@pytest.mark.parametrize(
    "body",
    [
        b"Plain prose about functions (and more).",
        b"function of the liver: it has many.",
        b"{not json at all, but a text in braces}",
        b"[1] A note that starts with a number.",
        b"Dear all: import from China is growing.\n",
        b"# A heading\n\nUser guides: all of them\n",
        b"<p>var a = 1; .x { color: red }</p>",
        b'<!-- {"a": 1} --><html><body>x</body></html>',
        b"Let x = 5 be a number {and so on}.",
    ],
)
def test_texts_and_pages_that_look_alike_are_kept(body: bytes) -> None:
    assert reason_of_content("http://x.example/a", body) is None


def test_xhtml_served_as_xml_is_a_page(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    body = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body><p>page 7 text</p></body></html>'
    assert extract_bytes("x.warc", record(7, body, content_type="application/xml")).pages == [7]


def test_texts_extracted_by_others_are_not_judged(extract_bytes: Any, record: Callable[..., bytes]) -> None:
    body = b"var page 3 = a text\n"
    made = extract_bytes("x.wet", record(3, body, warc_type="conversion", content_type="text/plain"))
    assert len(made.documents) == 1
