"""HTML to text: the one place that knows how the main content of a page is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longcat.stages.data.extract.decode import Decoded, decode

MAX_TITLE_CHARACTERS = 1000
MAX_LANGUAGE_CHARACTERS = 35
MAX_URL_CHARACTERS = 2000
# Pages hold these for layout; in text they would only make other words of the same ones.
SPACES = (("\u00a0", " "), ("\u202f", " "), ("\u00ad", ""))
# The walk marks line breaks and inline code with these; pages have no use for them.
CONTROLS = ("\x00", "\x01", "\x02")
MAX_PAGE_BYTES = 4 << 20
MAX_TAGS = 100_000
MIN_CHARACTERS = 100  # of scored content, below which what the page says of itself may be more
KEEP = 0.5


@dataclass(frozen=True, slots=True)
class Page:
    """What extraction makes of a page. `language` is what `<html lang>` states, unchecked.

    `kind` is the page's kind as its statistics tell it; `fallback` is why the text is not the scorer's.
    """

    text: str
    title: str | None
    language: str | None
    encoding: str
    replaced: int
    date: str | None = None
    canonical: str | None = None
    kind: str | None = None
    fallback: str | None = None


def extract_page(data: bytes, charset: str | None, extractor: str = "longcat", fallback: str | None = None) -> Page:
    """Main content of an HTML page, as markdown with `longcat`, as plain text with the other extractors.

    `charset` is what HTTP states. `fallback` is a reason to use resiliparse's plain text at once; pages over the
    budget of bytes or tags come to the same with the reason `bytes` or `tags`.
    """
    from resiliparse.parse.html import HTMLTree

    decoded = decode(data, charset, is_html=True)
    decoded = Decoded(without_controls(decoded.text), decoded.encoding, decoded.replaced)
    tree = HTMLTree.parse(decoded.text)
    title = _bounded(tree.title, MAX_TITLE_CHARACTERS)
    if extractor == "longcat" and fallback is None:
        fallback = _over_budget(data, decoded.text)
        if fallback is None:
            return _scored(tree, title, decoded)
    text = _with_trafilatura(decoded.text) if extractor == "trafilatura" and fallback is None else _plain(tree)
    root = tree.document.query_selector("html") if tree.document else None
    language = root.getattr("lang") if root else None
    return Page(
        _cleaned(text),
        title,
        _bounded(language, MAX_LANGUAGE_CHARACTERS),
        decoded.encoding,
        decoded.replaced,
        fallback=fallback,
    )


def without_controls(text: str) -> str:
    """The text without `CONTROLS`; here as for `SPACES`, `str.translate` would take longer than the parser does."""
    for control in CONTROLS:
        text = text.replace(control, "")
    return text


def _over_budget(data: bytes, text: str) -> str | None:
    if len(data) > MAX_PAGE_BYTES:
        return "bytes"
    return "tags" if text.count("<") > MAX_TAGS else None


def _scored(tree: Any, title: str | None, decoded: Decoded) -> Page:
    from longcat.stages.data.extract.content.blocks import read_blocks
    from longcat.stages.data.extract.content.features import PageFeatures
    from longcat.stages.data.extract.content.head import read_head
    from longcat.stages.data.extract.content.markdown import to_markdown
    from longcat.stages.data.extract.content.scorer import score

    markup = tree.document.html
    head = read_head(markup)
    blocks = read_blocks(markup)
    kind, text, fallback = None, "", None
    if blocks.blocks:
        cut = markup.find("<body")
        features = PageFeatures(blocks, markup[: cut if cut > 0 else 20_000][:200_000], title or "")
        kind, scores = score(features)
        text = to_markdown(blocks, (scores > KEEP).tolist())
    if len(text) < MIN_CHARACTERS:
        stated = max(head.body, head.description, key=len)
        choices = {
            None: text,
            "structured_data": stated,
            "no_content": _plain(tree) or to_markdown(blocks, [True] * len(blocks.blocks)),
        }
        fallback = max(choices, key=lambda name: len(choices[name]))
        text = choices[fallback]
    return Page(
        _cleaned(text),
        title,
        _bounded(head.language, MAX_LANGUAGE_CHARACTERS),
        decoded.encoding,
        decoded.replaced,
        head.date,
        _bounded(head.canonical, MAX_URL_CHARACTERS),
        kind,
        fallback,
    )


def _plain(tree: Any) -> str:
    """Main content by resiliparse's rules (Bevendorff et al., Resiliparse, 2018), else all of the page's text."""
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, list_bullets=True, alt_texts=False, links=False
    )
    if len(text) < MIN_CHARACTERS:
        text = extract_plain_text(tree, main_content=False, preserve_formatting=True, alt_texts=False, links=False)
    return text


def _with_trafilatura(text: str) -> str:
    from importlib import import_module

    found: str | None = import_module("trafilatura").extract(text)
    return found or ""


def _cleaned(text: str) -> str:
    for space, plain in SPACES:
        text = text.replace(space, plain)
    return text.strip()


def _bounded(text: str | None, limit: int) -> str | None:
    """One line of at most `limit` characters; None for nothing."""
    return " ".join((text or "").split())[:limit] or None
