"""Opening of input files for reading: compression, limits, and the place to start at."""

from __future__ import annotations

import re
from typing import BinaryIO

from longcat.stages.data.extract.compression import FIRST_BYTES, compression_of
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.parts import BEGIN, Part, Start
from longcat.stages.data.extract.records import InputFile
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.streams import Damage, Source, open_source

REACH = 16 << 10


def source_of(stream: BinaryIO, file: InputFile, config: ExtractConfig, prefix: bytes = b"", start: int = 0) -> Source:
    """Decompressed content of a file from an offset; `prefix` is used to search for gzip members."""
    stream.seek(0)
    compression = compression_of(file.path.name, stream.read(FIRST_BYTES))
    stream.seek(0)
    return open_source(stream, compression, config.max_expansion, prefix, start)


def open_buffer(
    stream: BinaryIO, file: InputFile, config: ExtractConfig, prefix: bytes = b"", start: Start = BEGIN
) -> SourceBuffer:
    """Decompressed content of a file from the start of a record.

    Raises:
        Damage: the bytes before a record within a compressed member are damaged.
    """
    window = SourceBuffer(source_of(stream, file, config, prefix, start.offset))
    window.skip(start.skip)
    return window


def open_inside(
    stream: BinaryIO, part: Part, config: ExtractConfig, prefix: bytes, before_record: re.Pattern[bytes]
) -> tuple[SourceBuffer, Start | None]:
    """Content from the first record that is found in a part, and where it is; None if none is.

    In a compressed file this is the first readable member. `before_record` matches the byte before a record.
    """
    begin, end = part.start.offset, part.end
    window = SourceBuffer(source_of(stream, part.file, config, prefix, max(begin - 1, 0)))
    try:
        if not window.is_plain:
            found = window.begin_member(begin, None if end is None else end.offset)
        elif found := window.skip_to(before_record, REACH, None if end is None else end.offset - begin):
            window.skip(1)
        if not found or window.at_end() or not part.includes(window.place):
            return window, None
        return window, window.place
    except Damage:
        return window, None
