"""Records from delimited text: CSV and TSV with a header line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO

from longcat.pipeline.errors import InputError
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode, decode_exactly
from longcat.stages.data.extract.fields import to_record
from longcat.stages.data.extract.lines import Lines, open_lines, read_lines
from longcat.stages.data.extract.parts import Extent, Part
from longcat.stages.data.extract.records import Problem, Record

# What spreadsheets write instead of commas, where the comma is the decimal sign.
DELIMITERS = (",", ";", "\t", "|")


def read_delimited(
    stream: BinaryIO, part: Part, config: ExtractConfig, delimiter: str | None
) -> Iterator[Record | Problem]:
    """Yield every row as a record; a problem for every row without text or with too many fields.

    The first row names the columns. Without `delimiter`, it is the one of `DELIMITERS` that the first line has most.
    Quoted fields may hold line ends.

    Raises:
        InputError: there is no such text column; names those there are.
    """
    text = _Lines(open_lines(stream, part, config), config.max_record_bytes, Extent(part))
    header: list[str] | None = None
    csv.field_size_limit(config.max_record_bytes)
    while True:
        first = next(text, None)
        yield from text.problems()
        if first is None:
            return
        if header is None and delimiter is None:
            delimiter = max(DELIMITERS, key=first.count)
        row = _row(first, text, delimiter or ",")
        place = {"line": text.first}
        yield from text.problems()
        if isinstance(row, str):
            yield Problem("too_large" if "limit" in row else "bad_row", row, place)
        elif header is None:
            header = [name.strip() for name in row]
            if config.text_field not in header:
                hint = f"give --text-field; columns: {', '.join(header)}"
                raise InputError(f"there is no column {config.text_field!r}", where=str(part.file.path), hint=hint)
        elif row:
            yield _to_record(header, row, text, config, place)


def _row(first: str, text: _Lines, delimiter: str) -> list[str] | str:
    """Fields of one row, which may take further lines; or why it cannot be read."""
    text.begin()
    reader = csv.reader(_after(first, text), delimiter=delimiter)
    try:
        return next(reader, [])
    except csv.Error as error:
        return str(error)


def _after(first: str, text: _Lines) -> Iterator[str]:
    yield first
    yield from text


def _to_record(
    header: list[str], row: list[str], text: _Lines, config: ExtractConfig, place: dict[str, int]
) -> Record | Problem:
    if len(row) > len(header):
        return Problem("bad_row", f"{len(row)} fields, the header has {len(header)}", place)
    values = dict(zip(reversed(header[: len(row)]), reversed(row), strict=True))  # of equal names the first counts
    return to_record(values, config, place, encoding=text.encoding, replaced=text.replaced)


class _Lines:
    """Decoded lines of a file, for rows that take several."""

    def __init__(self, lines: Lines, max_bytes: int, extent: Extent) -> None:
        self._lines = lines
        self._items = read_lines(lines.window, max_bytes, extent, blank=True)
        self._problems: list[Problem] = []
        self.number = self.first = 0
        self.encoding = lines.from_encoding
        self.replaced = self._replaced = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        for item in self._items:
            if isinstance(item, Problem):
                self._problems.append(item)
                continue
            self.number, line = item
            return self._decoded(line)
        raise StopIteration

    def begin(self) -> None:
        """Begin a row with the last line."""
        self.first, self.replaced = self.number, self._replaced

    def problems(self) -> list[Problem]:
        """Problems since the last call."""
        found, self._problems = self._problems, []
        return found

    def _decoded(self, line: bytes) -> str:
        if self._lines.from_encoding:
            decoded = decode_exactly(line, "utf-8")
        else:
            decoded = decode(line, self._lines.charset)
            self.encoding = None if decoded.encoding == "utf-8" else decoded.encoding
        self._replaced = decoded.replaced
        self.replaced += decoded.replaced
        return decoded.text
