"""Records from JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode, decode_exactly
from longcat.stages.data.extract.fields import to_record
from longcat.stages.data.extract.json_text import parse_json
from longcat.stages.data.extract.lines import Lines, open_lines, read_lines
from longcat.stages.data.extract.parts import Extent, Part
from longcat.stages.data.extract.records import Problem, Record


def read_json_lines(stream: BinaryIO, part: Part, config: ExtractConfig) -> Iterator[Record | Problem]:
    """Yield every line as a record; a problem for every line that is too long, not a JSON object or without text."""
    lines = open_lines(stream, part, config)
    for item in read_lines(lines.window, config.max_record_bytes, Extent(part)):
        if isinstance(item, Problem):
            yield item
        else:
            number, line = item
            yield _parse_line(line, lines, config, {"line": number})


def _parse_line(line: bytes, lines: Lines, config: ExtractConfig, place: dict[str, int]) -> Record | Problem:
    encoding, replaced = lines.from_encoding, 0
    try:
        values, replaced = parse_json(line)
    except ValueError as error:
        try:
            values, found, replaced = _decode_and_parse(line, lines, error)
            encoding = encoding or found
        except ValueError as second:
            return Problem("not_json", str(second), place)
    if not isinstance(values, dict):
        return Problem("not_json", f"expected a JSON object, found {type(values).__name__}", place)
    return to_record(values, config, place, encoding=encoding, replaced=replaced)


def _decode_and_parse(line: bytes, lines: Lines, first: ValueError) -> tuple[Any, str, int]:
    """Value of a line that is not UTF-8, its encoding and number of replaced characters.

    Raises:
        ValueError: it is not JSON.
    """
    decoded = decode_exactly(line, "utf-8") if lines.from_encoding else decode(line, lines.charset)
    if not decoded.replaced and decoded.encoding == "utf-8":
        raise first
    values, surrogates = parse_json(decoded.text)
    return values, decoded.encoding, decoded.replaced + surrogates
