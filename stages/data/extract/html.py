"""HTML to text: the one place that knows how the main content of a page is found."""

from __future__ import annotations

from dataclasses import dataclass

from stages.data.extract.decode import decode

MAX_TITLE_CHARACTERS = 1000
MAX_LANGUAGE_CHARACTERS = 35
# Pages hold these for layout; in text they would only make other words of the same ones.
SPACES = str.maketrans({"\u00a0": " ", "\u202f": " ", "\u00ad": None})


@dataclass(frozen=True, slots=True)
class Page:
    """What extraction makes of a page. `language` is what `<html lang>` states, unchecked."""

    text: str
    title: str | None
    language: str | None
    encoding: str
    replaced: int


def extract_page(data: bytes, charset: str | None) -> Page:
    """Main content of an HTML page as plain text: paragraphs, lists and preformatted blocks, without links' targets.

    `charset` is what HTTP states. The content is found by resiliparse's rules (Bevendorff et al., Resiliparse, 2018).
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    decoded = decode(data, charset, is_html=True)
    tree = HTMLTree.parse(decoded.text)
    text = extract_plain_text(
        tree, main_content=True, preserve_formatting=True, list_bullets=True, alt_texts=False, links=False
    )
    root = tree.document.query_selector("html") if tree.document else None
    language = root.getattr("lang") if root else None
    return Page(
        text.translate(SPACES).strip(),
        _bounded(tree.title, MAX_TITLE_CHARACTERS),
        _bounded(language, MAX_LANGUAGE_CHARACTERS),
        decoded.encoding,
        decoded.replaced,
    )


def _bounded(text: str | None, limit: int) -> str | None:
    """One line of at most `limit` characters; None for nothing."""
    return " ".join((text or "").split())[:limit] or None
