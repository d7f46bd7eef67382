"""Text formats used verbatim: plain text and two markups."""

from __future__ import annotations

from longcat.stages.data.extract.formats.base import OneRecord


class Text(OneRecord):
    """Plain text."""

    name = "text"
    suffixes = (".txt", ".text")
    content_types = ("text/plain",)


class Markdown(OneRecord):
    """Markdown, its marks kept."""

    name = "markdown"
    suffixes = (".md", ".markdown")
    content_types = ("text/markdown", "text/x-markdown")


class Rst(OneRecord):
    """reStructuredText, its marks kept."""

    name = "rst"
    suffixes = (".rst",)
    content_types = ("text/x-rst", "text/prs.fallenstein.rst")
