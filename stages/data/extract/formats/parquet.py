"""Parquet, one document per row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import Format
from longcat.stages.data.extract.parquet import index_row_groups, read_parquet
from longcat.stages.data.extract.parts import Extent, Part, Start
from longcat.stages.data.extract.records import Problem, Record


class Parquet(Format):
    """Parquet, which has internal compression and its own reader."""

    name = "parquet"
    suffixes = (".parquet",)
    weight = 1.0
    splits = True

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        return read_parquet(stream, part, config)

    def index(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, cut_bytes: int, *, exact: bool
    ) -> tuple[Start | None, Extent]:
        first, extent = index_row_groups(stream, part)
        return (part.start if exact else first), extent
