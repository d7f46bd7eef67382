"""Parts of input files: whole small files, and ranges of large ones that are read apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from longcat.stages.data.extract.records import InputFile


class Start(NamedTuple):
    """Where a record starts: offset in the file, of a compressed one that of the member, and bytes into the member."""

    offset: int
    skip: int = 0


BEGIN = Start(0)


@dataclass(frozen=True)
class Part:
    """The records of `file` that start at `start` or later, and before `end`; None for all.

    `lines_before` is the number of lines before `start`; `repeated` are digests of record ids that occur before.
    `content_bytes` is the number of its bytes after decompression, if known.
    """

    file: InputFile
    start: Start = BEGIN
    end: Start | None = None
    lines_before: int = 0
    repeated: frozenset[bytes] = frozenset()
    content_bytes: int | None = None

    def includes(self, place: Start) -> bool:
        """Whether a record that starts at a place after `start` is in this part."""
        return self.end is None or place < self.end


class Cut(NamedTuple):
    """A record at which another part may begin: its place, and bytes, lines and record ids of the part before it."""

    place: Start
    content_bytes: int
    lines: int
    ids: int


@dataclass
class Extent:
    """What a reader learns of its part: `stop` is where the next record starts, None at the end of the file.

    With `cut_bytes`, `cuts` are noted after about as many bytes of content each.
    """

    part: Part
    cut_bytes: int | None = None
    stop: Start | None = None
    content_bytes: int = 0
    lines: int = 0
    ids: list[bytes] = field(default_factory=list)
    cuts: list[Cut] = field(default_factory=list)
    _first: int | None = None

    def begins(self, place: Start, content_bytes: int) -> bool:
        """Note that a record starts, after so many bytes of content; False if it is in the next part."""
        if self._first is None:
            self._first = content_bytes
        self.content_bytes = content_bytes - self._first
        if not self.part.includes(place):
            self.stop = place
            return False
        last = self.cuts[-1].content_bytes if self.cuts else 0
        if self.cut_bytes is not None and self.content_bytes - last >= self.cut_bytes:
            self.cuts.append(Cut(place, self.content_bytes, self.lines, len(self.ids)))
        return True
