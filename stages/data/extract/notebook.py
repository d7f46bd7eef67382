"""Jupyter notebooks (nbformat 2 to 4) to markdown: text cells verbatim, code in fences, followed by plain output."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from longcat.stages.data.extract.records import Rejected

MAX_TITLE_CHARACTERS = 1000
MAX_LANGUAGE_CHARACTERS = 40
CUT = "..."
_FENCE = re.compile(r"`{3,}")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_EMBEDDED = re.compile(r"data:[\w/.+-]{1,100};base64,[A-Za-z0-9+/=]+")
_LANGUAGE = re.compile(r"[\w+#.-]+")


@dataclass(frozen=True, slots=True)
class Notebook:
    """Text of a notebook, language of its code, and its title if any."""

    text: str
    language: str | None
    title: str | None


def read_notebook(data: str, output_characters: int) -> Notebook:
    """Convert the cells in order, with at most `output_characters` of plain output per cell.

    Images and their text placeholders are dropped; of an error only name and message are kept.

    Raises:
        Rejected: `not_json`, or `not_notebook` without a list of cells.
    """
    try:
        values = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Rejected("not_json", str(error)) from None
    cells = _cells(values)
    if cells is None:
        raise Rejected("not_notebook", "the file has no list of cells")
    metadata = values["metadata"] if isinstance(values.get("metadata"), dict) else {}
    language = _language(metadata)
    parts: list[str] = []
    for cell in cells:
        if isinstance(cell, dict):
            own = cell.get("language")
            language = language or _language_name(own)
            parts += _cell(cell, language or "", output_characters)
    title = metadata.get("title")
    return Notebook(
        "\n\n".join(parts), language, title[:MAX_TITLE_CHARACTERS] if isinstance(title, str) and title else None
    )


def _cells(values: Any) -> list[Any] | None:
    """Cells of a notebook; of all worksheets before nbformat 4."""
    if not isinstance(values, dict):
        return None
    if isinstance(cells := values.get("cells"), list):
        return cells
    sheets = values.get("worksheets")
    if not isinstance(sheets, list):
        return None
    found = [sheet.get("cells") for sheet in sheets if isinstance(sheet, dict)]
    return [cell for cells in found if isinstance(cells, list) for cell in cells]


def _language(metadata: dict[str, Any]) -> str | None:
    """Language of the kernel, in lower case."""
    for key, name in (("language_info", "name"), ("kernelspec", "language")):
        stated = metadata.get(key)
        if isinstance(stated, dict) and (found := _language_name(stated.get(name))):
            return found
    return None


def _language_name(stated: Any) -> str | None:
    if not isinstance(stated, str) or len(stated) > MAX_LANGUAGE_CHARACTERS or not _LANGUAGE.fullmatch(stated):
        return None
    return stated.lower()


def _cell(cell: dict[str, Any], language: str, output_characters: int) -> Iterator[str]:
    kind = cell.get("cell_type")
    source = _joined(cell["source"] if "source" in cell else cell.get("input")).strip("\n")
    if kind == "code":
        if source.strip():
            yield fenced(source, language)
        output = _outputs(cell.get("outputs"), output_characters)
        if output:
            yield fenced(output, "text")
    elif kind == "heading" and source.strip():
        level = cell.get("level")
        yield "#" * (level if isinstance(level, int) and 1 <= level <= 6 else 1) + " " + " ".join(source.split())
    elif kind == "markdown" and source.strip():
        yield _EMBEDDED.sub("", source)


def _outputs(outputs: Any, limit: int) -> str:
    """Plain text of a cell's outputs, truncated to `limit` characters."""
    if not limit or not isinstance(outputs, list):
        return ""
    texts: list[str] = []
    size = 0
    for output in outputs:
        if isinstance(output, dict) and size <= limit:
            texts.append(_ESCAPES.sub("", _output(output)).strip("\n"))
            size += len(texts[-1])
    text = "\n".join(text for text in texts if text.strip())
    return text if len(text) <= limit else text[:limit].rstrip() + CUT


def _output(output: dict[str, Any]) -> str:
    if output.get("output_type") in ("error", "pyerr"):
        return f"{_joined(output.get('ename'))}: {_joined(output.get('evalue'))}"
    data = output.get("data")
    by_type = data if isinstance(data, dict) else output
    if any(key.startswith("image/") or key in ("png", "jpeg", "svg") for key in by_type):
        return ""
    return _joined(by_type.get("text/plain") if "text/plain" in by_type else output.get("text"))


def _joined(value: Any) -> str:
    """Text given as a string or a list of lines; empty for anything else."""
    if isinstance(value, str):
        return value
    return "".join(part for part in value if isinstance(part, str)) if isinstance(value, list) else ""


def fenced(text: str, language: str) -> str:
    """A fenced block; its fence is longer than any in the text."""
    longest = max((len(found) for found in _FENCE.findall(text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
