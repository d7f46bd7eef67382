"""Crawls from before WARC: ARC files."""

from __future__ import annotations

from collections.abc import Iterator

from longcat.stages.data.extract.arc import NEXT_RECORD, read_arc
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.warc import Warc
from longcat.stages.data.extract.parts import Extent
from longcat.stages.data.extract.records import Problem
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.warc import WarcRecord


class Arc(Warc):
    """Records of a crawl, without ids: documents are named by their offsets."""

    name = "arc"
    suffixes = (".arc",)
    prefix = b""
    next_record = NEXT_RECORD

    def archived(self, window: SourceBuffer, config: ExtractConfig, extent: Extent) -> Iterator[WarcRecord | Problem]:
        return read_arc(window, config.max_record_bytes, extent)
