"""Responses that are no pages: files for crawlers, logs of crawlers, style sheets, scripts, data and feeds."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import orjson

SNIFFED_BYTES = 4096
TYPES = {
    "text/css": "stylesheet",
    "text/javascript": "script",
    "text/ecmascript": "script",
    "application/javascript": "script",
    "application/x-javascript": "script",
    "application/ecmascript": "script",
    "application/json": "json",
    "text/json": "json",
    "application/rss+xml": "feed",
    "application/atom+xml": "feed",
    "application/rdf+xml": "feed",
    "text/dns": "dns",
}
PATHS = (
    (re.compile(r"/robots\.txt$"), "robots_txt"),
    (re.compile(r"/(?:app-)?ads\.txt$"), "ads_txt"),
    (re.compile(r"\.css$"), "stylesheet"),
    (re.compile(r"\.(?:js|mjs|cjs)$"), "script"),
    (re.compile(r"\.(?:json|jsonld|geojson|map)$"), "json"),
    (re.compile(r"\.(?:rss|atom)$"), "feed"),
)
# Records that wget writes about itself.
LOG_URLS = re.compile(r"metadata://[^/]*/software/wget/|urn:(?:pageinfo|thumbnail):")
MARKUP = re.compile(
    rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype|html|head|body|[a-z][a-z0-9-]*[\s>/])", re.IGNORECASE | re.DOTALL
)
PROLOGUE = rb"\s*(?:<\?[^>]*\?>\s*|<!--.*?-->\s*|<!DOCTYPE[^>]*>\s*)*"
XML_ROOTS = (
    (re.compile(PROLOGUE + rb"<(?:rss|feed|rdf:RDF)[\s>]", re.DOTALL), "feed"),
    (re.compile(PROLOGUE + rb"<(?:urlset|sitemapindex)[\s>]", re.DOTALL), "sitemap"),
)
COMMENTS = rb"\s*(?:/\*.*?\*/\s*|//[^\n]*\n\s*)*"
SCRIPT_STARTS = (
    rb"[\"']use strict[\"']",
    rb"[!;(+]*function\s*[\w$]*\s*\(",
    rb"\(\(?[\w$, ]*\)?\s*=>",
    rb"(?:var|let|const)\s+[\w$]+\s*=",
    rb"(?:window|document|self|jQuery|module\.exports)[.\[][^\n]{0,200}[=(]",
    rb"import\s[^\n]{0,200}\sfrom\s*[\"']",
)
TEXTS = (
    (
        re.compile(rb"\s*(?:#[^\n]*\n\s*)*(?:user-agent|disallow|sitemap)[ \t]*:[^\n]*(?:\n|$)", re.IGNORECASE),
        "robots_txt",
    ),
    (re.compile(rb"\s*--\d{4}-\d\d-\d\d \d\d:\d\d:\d\d--\s+\w+://"), "crawler_log"),
    (re.compile(COMMENTS + rb'(?:@charset\s*"|@import\s|@media\s|@font-face\s*\{)', re.DOTALL), "stylesheet"),
    (
        re.compile(COMMENTS + rb"[.#:*\[a-zA-Z][^{}<;]{0,300}\{\s*[a-z-]+\s*:[^{}<>]*[;}]", re.DOTALL),
        "stylesheet",
    ),
    (re.compile(COMMENTS + b"(?:" + b"|".join(SCRIPT_STARTS) + b")", re.DOTALL), "script"),
)


def reason_of_type(media_type: str) -> str | None:
    """Reason to leave out a response by its content type; None for pages and unknown types."""
    return TYPES.get(media_type) or ("json" if media_type.endswith("+json") else None)


def reason_of_content(url: str | None, body: bytes) -> str | None:
    """Reason to leave out a response that is stated to be a page or text, by its URL or its beginning."""
    if url and LOG_URLS.match(url):
        return "crawler_log"
    start = body[:SNIFFED_BYTES].removeprefix(b"\xef\xbb\xbf")
    for pattern, reason in XML_ROOTS:
        if pattern.match(start):
            return reason
    if MARKUP.match(start):
        return None
    if start.lstrip()[:1] in (b"{", b"[") and _is_json(body):
        return "json"
    path = _path(url)
    return next((reason for pattern, reason in PATHS if pattern.search(path)), None) or next(
        (reason for pattern, reason in TEXTS if pattern.match(start)), None
    )


def _path(url: str | None) -> str:
    try:
        return urlsplit(url or "").path.lower()
    except ValueError:
        return ""


def _is_json(body: bytes) -> bool:
    try:
        orjson.loads(body.removeprefix(b"\xef\xbb\xbf"))
    except orjson.JSONDecodeError:
        return False
    return True
