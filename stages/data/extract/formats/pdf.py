"""PDF files, read if the extra is installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import OneRecord
from longcat.stages.data.extract.guard import page_guard
from longcat.stages.data.extract.records import Record


class Pdf(OneRecord):
    """The text of a file, extracted in a child process under limits. Those in crawls are not read."""

    name = "pdf"
    suffixes = (".pdf",)
    binary = True

    def missing(self) -> tuple[str, str] | None:
        return None if find_spec("pypdfium2") else ("pypdfium2", "pip install 'longcat-cli[pdf]'")

    def text_of(self, record: Record, content: bytes, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
        page = page_guard().extract(content, None, config.max_page_seconds, "pdf")
        return page.text, {"title": page.title} if page.title else {}
