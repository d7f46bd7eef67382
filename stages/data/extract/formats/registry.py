"""Registry of formats: a new one is a class in its own module, listed here and in `config.Format`."""

from __future__ import annotations

from longcat.stages.data.extract.compression import suffix_of
from longcat.stages.data.extract.formats.arc import Arc
from longcat.stages.data.extract.formats.base import Format, OneRecord
from longcat.stages.data.extract.formats.code import Code
from longcat.stages.data.extract.formats.delimited import Csv, Tsv
from longcat.stages.data.extract.formats.html import Html
from longcat.stages.data.extract.formats.json_lines import JsonLines
from longcat.stages.data.extract.formats.notebook import Notebook
from longcat.stages.data.extract.formats.parquet import Parquet
from longcat.stages.data.extract.formats.pdf import Pdf
from longcat.stages.data.extract.formats.text import Markdown, Rst, Text
from longcat.stages.data.extract.formats.wacz import Wacz
from longcat.stages.data.extract.formats.warc import Warc

_ONE_RECORD: tuple[OneRecord, ...] = (Html(), Text(), Markdown(), Rst(), Code(), Notebook())
_PDF = Pdf()
# Formats of single records, in files of their own or inside a container.
TEXTS: dict[str, OneRecord] = {form.name: form for form in (*_ONE_RECORD, _PDF)}
_WARC = Warc(_ONE_RECORD)
_CONTAINERS: tuple[Format, ...] = (_WARC, Arc(_ONE_RECORD), Wacz(_WARC), JsonLines(), Parquet(), Csv(), Tsv())
FORMATS: dict[str, Format] = {form.name: form for form in (*_CONTAINERS, *_ONE_RECORD, _PDF)}


def format_of_name(name: str) -> str | None:
    """Format by file name, ignoring compression; None if unknown."""
    suffix, compressed = suffix_of(name)
    return next((form.name for form in FORMATS.values() if form.has_suffix(suffix, compressed)), None)
