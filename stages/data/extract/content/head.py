"""Title, date, language, canonical URL and structured text from a page's markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

META = re.compile(r"<meta\b((?:[^>\"]++|\"[^\"]*+\")*+)>")
LINK = re.compile(r"<link\b((?:[^>\"]++|\"[^\"]*+\")*+)>")
ATTRIBUTE = re.compile(r'([a-zA-Z:-]+)="([^"]*)"')
STRUCTURED = re.compile(r"<script\b[^>]*application/ld\+json[^>]*>(.*?)</script>", re.S)
TIME = re.compile(r'<time\b[^>]*\bdatetime="([^"]{4,40})"')
LANGUAGE = re.compile(r'<html\b[^>]*?\blang="([^"]*)"')
DATE = re.compile(r"(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])")
DATE_NAMES = (
    "article:published_time",
    "datepublished",
    "dc.date",
    "dc.date.issued",
    "date",
    "pubdate",
    "og:published_time",
)
TEXT_KEYS = ("articleBody", "reviewBody", "text", "description")
MAX_STRUCTURED_CHARACTERS = 1 << 20
MAX_DEPTH = 12
MAX_VALUES = 2000


@dataclass(frozen=True, slots=True)
class Head:
    """Metadata of a page; `body` is an article's whole text in JSON-LD, `description` the shorter one."""

    date: str | None
    language: str | None
    canonical: str | None
    description: str
    body: str


def read_head(markup: str) -> Head:
    """Read the serialised page. Dates are `YYYY-MM-DD`; other formats are ignored."""
    named: dict[str, str] = {}
    for attributes in META.findall(markup):
        values = dict(ATTRIBUTE.findall(attributes))
        name = (values.get("property") or values.get("name") or values.get("itemprop") or "").lower()
        if name and "content" in values:
            named.setdefault(name, html.unescape(values["content"]))
    canonical = None
    for attributes in LINK.findall(markup):
        values = dict(ATTRIBUTE.findall(attributes))
        if values.get("rel", "").lower() == "canonical" and values.get("href"):
            canonical = html.unescape(values["href"]).strip()
            break
    texts, dates = _structured(markup)
    stated = [named[name] for name in DATE_NAMES if name in named]
    stated += [dates] if dates else []
    stated += TIME.findall(markup)[:1]
    date = next((found[0] for text in stated if (found := DATE.search(text))), None)
    language = LANGUAGE.search(markup)
    body = max((texts.get(key, "") for key in TEXT_KEYS[:3]), key=len)
    description = texts.get("description") or named.get("og:description") or named.get("description") or ""
    return Head(date, html.unescape(language[1]) if language else None, canonical, _plain(description), _plain(body))


def _structured(markup: str) -> tuple[dict[str, str], str]:
    """Longest text by key in the page's JSON-LD, and the first publication date."""
    texts: dict[str, str] = {}
    date = ""
    for source in STRUCTURED.findall(markup):
        if len(source) > MAX_STRUCTURED_CHARACTERS:
            continue
        try:
            value = orjson.loads(source)
        except orjson.JSONDecodeError:
            continue
        for item in _objects(value):
            for key in TEXT_KEYS:
                text = item.get(key)
                if isinstance(text, str) and len(text) > len(texts.get(key, "")):
                    texts[key] = text
            if not date and isinstance(item.get("datePublished"), str):
                date = item["datePublished"]
    return texts, date


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    pending, seen = [(value, 0)], 0
    while pending and seen < MAX_VALUES:
        value, depth = pending.pop()
        seen += 1
        if isinstance(value, dict):
            yield value
        children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if depth < MAX_DEPTH:
            pending += [(child, depth + 1) for child in children if isinstance(child, (dict, list))]


def _plain(text: str) -> str:
    """Text without tags, which some sites leave in structured data."""
    return " ".join(html.unescape(re.sub(r"<[^<>]{1,500}>", " ", html.unescape(text))).split())
