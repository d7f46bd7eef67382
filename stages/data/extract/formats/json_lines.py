"""JSON lines, one document per line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import Format
from longcat.stages.data.extract.json_lines import read_json_lines
from longcat.stages.data.extract.lines import index_lines
from longcat.stages.data.extract.parts import Extent, Part, Start
from longcat.stages.data.extract.records import Problem, Record


class JsonLines(Format):
    """JSON lines. `.json` is included only if compressed, as in web corpora; a plain one is usually one value."""

    name = "jsonl"
    suffixes = (".jsonl", ".ndjson")
    splits = True

    def has_suffix(self, suffix: str, compressed: bool) -> bool:
        return super().has_suffix(suffix, compressed) or (suffix == ".json" and compressed)

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        return read_json_lines(stream, part, config)

    def index(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, cut_bytes: int, *, exact: bool
    ) -> tuple[Start | None, Extent]:
        return index_lines(stream, part, config, cut_bytes, exact=exact)
