"""HTML pages."""

from __future__ import annotations

from typing import Any

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import OneRecord, encoding_of
from longcat.stages.data.extract.guard import page_guard
from longcat.stages.data.extract.records import Record


class Html(OneRecord):
    """A page, whose main content is extracted in a child process under limits."""

    name = "html"
    suffixes = (".html", ".htm", ".xhtml")
    content_types = ("text/html", "application/xhtml+xml")

    def text_of(self, record: Record, content: bytes, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
        guard = page_guard()
        page = guard.extract(content, record.charset, config.max_page_seconds, config.extractor, config.comments)
        found = {
            "title": page.title,
            "html_language": page.language,
            "date": page.date,
            "canonical_url": page.canonical,
            "page_kind": page.kind,
            "extraction_fallback": page.fallback,
            "extraction_confidence": page.confidence,
            "comments": page.comments,
        }
        given = {key: value for key, value in found.items() if value not in (None, "")}
        return page.text, given | encoding_of(page.encoding, page.replaced)
