"""Crawls in a WACZ file: a zip archive with WARC files, an index and a list of pages.

Source: WACZ 1.1.1 (specs.webrecorder.net/wacz).
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, cast

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.formats.base import Format
from longcat.stages.data.extract.formats.warc import Warc
from longcat.stages.data.extract.opening import open_buffer
from longcat.stages.data.extract.parts import Extent, Part
from longcat.stages.data.extract.records import InputFile, Problem, Record
from longcat.stages.data.extract.streams import EXPANSION_FLOOR_BYTES
from longcat.stages.data.extract.warc import VERSION_PREFIX

CRAWLS = "archive/"
WARC_GZ_WEIGHT = 8.0  # its files are compressed
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError)


class Wacz(Format):
    """The WARC files below `archive/`, in the order of the zip directory, read without unpacking them to disk."""

    name = "wacz"
    suffixes = (".wacz",)
    weight = WARC_GZ_WEIGHT

    def __init__(self, warc: Warc) -> None:
        """`warc`: the format of the files in it."""
        self._warc = warc

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        seen: set[bytes] = set()
        try:
            with zipfile.ZipFile(cast("IO[bytes]", stream)) as archive:
                for member in archive.infolist():
                    if self._is_crawl(member.filename):
                        yield from self._read_member(archive, member, config, tally, seen)
        except DAMAGE as error:
            yield Problem("corrupt_zip", _line(error), {"offset": 0})

    def _is_crawl(self, name: str) -> bool:
        from longcat.stages.data.extract.compression import suffix_of

        return name.startswith(CRAWLS) and self._warc.has_suffix(*suffix_of(name))

    def _read_member(
        self,
        archive: zipfile.ZipFile,
        member: zipfile.ZipInfo,
        config: ExtractConfig,
        tally: Counter[str],
        seen: set[bytes],
    ) -> Iterator[Record | Problem]:
        place = {"offset": member.header_offset}
        if member.file_size > EXPANSION_FLOOR_BYTES + config.max_expansion * member.compress_size:
            detail = f"{member.filename}: {member.file_size} bytes out of {member.compress_size} compressed ones"
            yield Problem("expansion_limit", detail, place)
            return
        try:
            with archive.open(member) as content:
                inner = InputFile(Path(member.filename), member.filename, self._warc.name)
                window = open_buffer(cast("BinaryIO", content), inner, config, VERSION_PREFIX)
                for item in self._warc.read_records(window, config, tally, seen, Extent(Part(inner))):
                    if isinstance(item, Problem):
                        item.detail = f"{member.filename}: {item.detail}"
                    elif item.key.startswith("offset:"):
                        item.key = f"{member.filename}:{item.key}"
                    yield item
        except DAMAGE as error:
            yield Problem("corrupt_zip", f"{member.filename}: {_line(error)}", place)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
