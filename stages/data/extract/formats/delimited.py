"""Delimited text with a header line, one document per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, ClassVar

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.delimited import read_delimited
from longcat.stages.data.extract.formats.base import Format
from longcat.stages.data.extract.parts import Part
from longcat.stages.data.extract.records import Problem, Record


class Csv(Format):
    """Comma-separated values, also with semicolons, tabs or bars."""

    name = "csv"
    suffixes: ClassVar[tuple[str, ...]] = (".csv",)
    delimiter: ClassVar[str | None] = None

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        return read_delimited(stream, part, config, self.delimiter)


class Tsv(Csv):
    """Tab-separated values."""

    name = "tsv"
    suffixes = (".tsv", ".tab")
    delimiter = "\t"
