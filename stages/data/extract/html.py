"""HTML to text: extraction of a page's main content."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longcat.stages.data.extract.decode import Decoded, decode

if TYPE_CHECKING:
    from longcat.stages.data.extract.config import Comments

MAX_TITLE_CHARACTERS = 1000
MAX_LANGUAGE_CHARACTERS = 35
MAX_URL_CHARACTERS = 2000
# Used for layout; in text they would only create variants of words.
SPACES = (("\u00a0", " "), ("\u202f", " "), ("\u00ad", ""))
# Used internally to mark line breaks and inline elements; removed from pages.
CONTROLS = tuple(map(chr, range(9)))
CONTROL_REFERENCE = re.compile(r"&#(?:[xX]0*[0-8](?![0-9A-Fa-f])|0*[0-8](?![0-9]));?")
MAX_PAGE_BYTES = 4 << 20
MAX_TAGS = 100_000
MIN_CHARACTERS = 100  # of scored content, below which page metadata may be longer
STATED_CHARACTERS = 500  # of an article's body in structured data, from which the text is compared with it
STATED_SHARE = 0.3  # of the words of that body, below which it is the text


@dataclass(frozen=True, slots=True)
class Page:
    """Result of extraction. `language` is the unchecked `<html lang>`.

    `kind` is the predicted page kind; `fallback` is the reason if the text is not from the scorer; else `confidence` is
    the F1 that its scores promise, 0 to 1. `comments` is the text of reader comments where they are written separately.
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
    confidence: float | None = None
    comments: str | None = None


def extract_page(
    data: bytes,
    charset: str | None,
    extractor: str = "longcat",
    fallback: str | None = None,
    comments: Comments = "auto",
) -> Page:
    """Main content of an HTML page, as Markdown with `longcat`, as plain text with other extractors.

    `charset` is from HTTP. `fallback` is a reason to use resiliparse's plain text at once; pages over the limit of
    bytes or tags use it with the reason `bytes` or `tags`.
    """
    from resiliparse.parse.html import HTMLTree

    decoded = decode(data, charset, is_html=True)
    decoded = Decoded(without_controls(decoded.text), decoded.encoding, decoded.replaced)
    tree = HTMLTree.parse(decoded.text)
    title = _bounded(tree.title, MAX_TITLE_CHARACTERS)
    if extractor == "longcat" and fallback is None:
        fallback = _over_budget(data, decoded.text)
        if fallback is None:
            with _no_collections():
                return _scored(tree, title, decoded, comments)
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


@contextmanager
def _no_collections() -> Iterator[None]:
    """What is made of a page has no reference cycles; the collector would search for them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def without_controls(text: str) -> str:
    """The text without `CONTROLS`; references to them, as in `&#1;`, become blanks."""
    import numpy as np

    data = text.encode("utf-8", "surrogatepass")
    if (np.frombuffer(data, np.uint8) < len(CONTROLS)).any():
        for control in CONTROLS:
            text = text.replace(control, "")
    return CONTROL_REFERENCE.sub(" ", text)


def _over_budget(data: bytes, text: str) -> str | None:
    if len(data) > MAX_PAGE_BYTES:
        return "bytes"
    return "tags" if text.count("<") > MAX_TAGS else None


def _scored(tree: Any, title: str | None, decoded: Decoded, comments: Comments) -> Page:
    from longcat.stages.data.extract.content.blocks import read_blocks
    from longcat.stages.data.extract.content.features import PageFeatures
    from longcat.stages.data.extract.content.head import read_head
    from longcat.stages.data.extract.content.markdown import to_markdown
    from longcat.stages.data.extract.content.scorer import score
    from longcat.stages.data.extract.content.selection import LONG_PARAGRAPHS, select

    markup = tree.document.html
    head = read_head(markup)
    blocks = read_blocks(markup)
    kind, text, fallback, confidence, said = None, "", None, None, ""
    if blocks.blocks:
        features = PageFeatures(blocks, head_of(markup), title or "")
        kind, scores = score(features)
        chosen = select(features, scores, kind, comments)
        text, fallback, confidence = to_markdown(blocks, chosen.keep), chosen.reason, round(chosen.confidence, 3)
        said = to_markdown(blocks, chosen.comments)
    if kind == "article" and _lacks(text, head.body):
        text, fallback = head.body, "structured_data"
    if len(text) < MIN_CHARACTERS:
        stated = max(head.body, head.description, key=len)
        choices = {
            fallback: text,
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
        confidence if fallback in (None, LONG_PARAGRAPHS) else None,
        _cleaned(said) or None,
    )


def _lacks(text: str, body: str) -> bool:
    """Whether most words of an article's body in structured data are not in the text."""
    if len(body) < STATED_CHARACTERS:
        return False
    known = set(text.split())
    words = body.split()
    return sum(word in known for word in words) < STATED_SHARE * len(words)


def head_of(markup: str) -> str:
    """What precedes the body, within limits."""
    cut = markup.find("<body")
    return markup[: cut if cut > 0 else 20_000][:200_000]


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
    """One line of at most `limit` characters; None if empty."""
    return " ".join((text or "").split())[:limit] or None
