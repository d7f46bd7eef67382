"""Jupyter notebooks."""

from __future__ import annotations

from typing import Any

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode
from longcat.stages.data.extract.formats.base import OneRecord, encoding_of, trimmed
from longcat.stages.data.extract.notebook import read_notebook
from longcat.stages.data.extract.records import Record


class Notebook(OneRecord):
    """A notebook as Markdown: text, code in fences, plain outputs."""

    name = "notebook"
    suffixes = (".ipynb",)
    content_types = ("application/x-ipynb+json",)

    def text_of(self, record: Record, content: bytes, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
        decoded = decode(content, record.charset)
        notebook = read_notebook(decoded.text, config.notebook_output_chars)
        found = {"title": notebook.title, "programming_language": notebook.language}
        given = {key: value for key, value in found.items() if value}
        return trimmed(notebook.text), given | encoding_of(decoded.encoding, decoded.replaced)
