"""Lines of text files, in any encoding."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from longcat.pipeline.faults import open_input
from longcat.stages.data.extract.charset.wide import wide_encoding
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import WIDE_MARKS, decode
from longcat.stages.data.extract.opening import open_buffer, open_inside, source_of
from longcat.stages.data.extract.parts import BEGIN, Extent, Part, Start
from longcat.stages.data.extract.records import InputFile, Problem
from longcat.stages.data.extract.source_buffer import SourceBuffer
from longcat.stages.data.extract.streams import Damage, Source

HEAD_BYTES = 64 << 10
MIN_EVIDENCE_BYTES = 32
ASCII = bytes(range(128))
LINE_START_BYTES = 64
NEWLINE = re.compile(rb"\n")
MALFORMED = "longcat-malformed-unit"


def read_lines(
    window: SourceBuffer, max_bytes: int, extent: Extent, *, blank: bool = False
) -> Iterator[tuple[int, bytes] | Problem]:
    """Number and bytes of every line of a part; a problem for every line that is too long, and for damage.

    Blank lines are left out unless `blank`.
    """
    while True:
        number = extent.part.lines_before + extent.lines + 1
        place = {"line": number}
        started = False
        try:
            if window.at_end():
                return
            if not extent.begins(window.place, window.position):
                return
            started = True
            line = window.take_through(b"\n", max_bytes)
            if line is None:
                window.skip_line()
        except Damage as damage:
            if not started and not extent.part.includes(window.place_of(damage)):
                extent.stop = window.place_of(damage)  # where the next part begins
                return
            extent.lines += 1
            yield Problem(damage.reason, damage.detail, place | {"offset": damage.offset})
            if not window.recover():
                return
            continue
        extent.lines += 1
        if line is None:
            yield Problem("too_large", f"the line is longer than {max_bytes} bytes", place)
            continue
        line = line.removeprefix(codecs.BOM_UTF8)  # also of files that were concatenated
        if blank or line.strip(b" \t\r\n"):
            yield number, line


def index_lines(
    stream: BinaryIO, part: Part, config: ExtractConfig, cut_bytes: int, *, exact: bool
) -> tuple[Start | None, Extent]:
    """Where the first line of a part starts, and how many there are; see `Format.index`."""
    extent = Extent(part, cut_bytes)
    lines = open_lines(stream, part, config)
    if lines.from_encoding is not None:
        return (BEGIN if part.start == BEGIN else None), extent
    window, first = lines.window, part.start
    if not exact:
        window, found = open_inside(stream, part, config, b"", NEWLINE)
        found = _first_line(window) if found is not None and not window.is_plain else found
        if found is None or not part.includes(found):
            return None, extent
        first = found
    for _ in read_lines(window, config.max_record_bytes, extent):
        pass
    return first, extent


def _first_line(window: SourceBuffer) -> Start | None:
    """Start of the first line of a compressed member, which begins with one if it begins with a bracket."""
    try:
        if not window.peek(LINE_START_BYTES).lstrip(codecs.BOM_UTF8 + b" \t\r\n").startswith(b"{"):
            window.skip_line()
        return None if window.at_end() else window.place
    except Damage:
        return None


@dataclass(frozen=True)
class Lines:
    """Content of a file for reading by lines: as UTF-8 converted `from_encoding`, or in `charset`, or in UTF-8."""

    window: SourceBuffer
    from_encoding: str | None = None
    charset: str | None = None


def open_lines(stream: BinaryIO, part: Part, config: ExtractConfig) -> Lines:
    """Open a file in UTF-8, in UTF-16 or UTF-32, or in an encoding that its first lines show.

    A file in UTF-16 or UTF-32 is not cut: its first part has all lines, and others are empty.
    """
    head = _head(part.file, config)
    encoding = next((encoding for mark, encoding in WIDE_MARKS if head.startswith(mark)), None)
    mark_bytes = next((len(mark) for mark, _ in WIDE_MARKS if head.startswith(mark)), 0)
    if encoding := encoding or wide_encoding(head):
        source = source_of(stream, part.file, config)
        return Lines(SourceBuffer(_Recoded(source, encoding, mark_bytes)), from_encoding=encoding)
    window = open_buffer(stream, part.file, config, start=part.start)
    return Lines(window, charset=_charset(head[: head.rfind(b"\n") + 1] or head))


def _charset(head: bytes) -> str | None:
    """Encoding that the first lines show, if they show enough of it."""
    if len(head.translate(None, ASCII)) < MIN_EVIDENCE_BYTES:
        return None
    found = decode(head).encoding
    return None if found == "utf-8" else found


def _head(file: InputFile, config: ExtractConfig) -> bytes:
    """First bytes of the content; what can be read of them."""
    with open_input(file.path) as stream:
        try:
            return SourceBuffer(source_of(stream, file, config)).peek(HEAD_BYTES)
        except Damage:
            return b""


class _Recoded:
    """A source in UTF-16 or UTF-32 as UTF-8, where a malformed unit becomes one byte FF."""

    exact = False

    def __init__(self, source: Source, encoding: str, mark_bytes: int) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder(encoding)(errors=MALFORMED)
        self._skip = mark_bytes
        self._ended = False

    @property
    def offset(self) -> int:
        return self._source.offset

    def read(self) -> bytes:
        while not self._ended:
            piece = self._source.read()
            self._ended = not piece
            start, self._skip = piece[self._skip :], max(0, self._skip - len(piece))
            text = self._decoder.decode(start, final=self._ended)
            if text:
                return text.encode("utf-8", errors=MALFORMED)
        return b""

    def recover(self) -> bool:
        self._decoder.reset()
        return self._source.recover()

    def begin_member(self, position: int, end: int | None) -> bool:
        return False


def _malformed(error: UnicodeError) -> tuple[str | bytes, int]:
    if isinstance(error, UnicodeDecodeError):
        return "\udcff", error.end
    if isinstance(error, UnicodeEncodeError):
        return b"\xff" * (error.end - error.start), error.end
    raise error


codecs.register_error(MALFORMED, _malformed)
