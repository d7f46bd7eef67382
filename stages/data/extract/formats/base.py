"""Base class of input formats, and of formats with one record per file."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.decode import decode, looks_binary
from longcat.stages.data.extract.opening import open_buffer
from longcat.stages.data.extract.parts import Extent, Part, Start
from longcat.stages.data.extract.records import InputFile, Problem, Record
from longcat.stages.data.extract.streams import Damage

TEXT_WEIGHT = 0.25
LEADING_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")


class Format(ABC):
    """An input format.

    `suffixes` are its file extensions without compression; `content_types` are its media types. `weight` is the time
    that a byte takes, relative to one of an HTML page. Large files of a format that `splits` are read in parts.
    """

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    content_types: ClassVar[tuple[str, ...]] = ()
    weight: ClassVar[float] = TEXT_WEIGHT
    splits: ClassVar[bool] = False

    def missing(self) -> tuple[str, str] | None:
        """Library that is not installed and without which files cannot be read, and how to install it."""
        return None

    def has_suffix(self, suffix: str, compressed: bool) -> bool:
        """Whether files with this extension have this format."""
        return suffix in self.suffixes

    @abstractmethod
    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        """Yield the records of a part of a file in order, with problems for unusable ones; `tally` counts others.

        Raises:
            InputError: the file lacks the column that the configuration names.
        """

    def index(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, cut_bytes: int, *, exact: bool
    ) -> tuple[Start | None, Extent]:
        """Where the first record of a part starts, and what else a reader of other parts must know.

        If `exact`, a record starts at `part.start`, else it is the first that is found from there on; None if there is
        none. After about every `cut_bytes` of content, a record is noted at which the part may be cut.
        """
        return part.start, Extent(part)


class OneRecord(Format):
    """A format with one record per file: a page, a text, a source file; `binary` if its bytes are not text."""

    binary: ClassVar[bool] = False
    weight = 1.0

    def read(
        self, stream: BinaryIO, part: Part, config: ExtractConfig, tally: Counter[str]
    ) -> Iterator[Record | Problem]:
        place = {"offset": 0}
        limit = config.max_record_bytes
        try:
            content = open_buffer(stream, part.file, config).take(limit + 1)
        except Damage as damage:
            yield Problem(damage.reason, damage.detail, {"offset": damage.offset})
            return
        if len(content) > limit:
            yield Problem("too_large", f"more than {limit} bytes", place)
        elif not self.binary and looks_binary(content):
            yield Problem("binary", "the content is not text", place)
        else:
            yield Record("file", self.name, content, place, metadata=self.metadata(part.file))

    def metadata(self, file: InputFile) -> dict[str, Any]:
        """Metadata from a file name."""
        return {}

    def text_of(self, record: Record, content: bytes, config: ExtractConfig) -> tuple[str, dict[str, Any]]:
        """Trimmed text of a record of this kind, and metadata from decoding and extraction.

        Raises:
            Rejected: it has no text.
        """
        decoded = decode(content, record.charset)
        return trimmed(decoded.text), encoding_of(decoded.encoding, decoded.replaced)


def trimmed(text: str) -> str:
    """Strip leading blank lines and trailing whitespace; the first line keeps its indentation."""
    return LEADING_BLANK_LINES.sub("", text).rstrip()


def encoding_of(name: str, replaced: int) -> dict[str, Any]:
    """Metadata from decoding."""
    return {"encoding": name, "replaced_characters": replaced} if replaced else {"encoding": name}
