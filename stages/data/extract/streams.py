"""Chunked reading of plain and compressed files, reporting and skipping damage.

A compressed file is a sequence of members (zstd: frames; bz2 and xz: streams). Every chunk is from one member and of
bounded size, whatever the file claims. After a damaged member, reading continues with the next one.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import zstandard

from longcat.stages.data.extract.compression import XZ_MAGIC

RAW_BYTES = 1 << 18
# Deflate makes at most 1032 bytes of one byte, so 16 KiB in are at most 17 MB out.
GZIP_FEED_BYTES = 16 << 10
# A zstd block of 4 bytes may stand for 128 KiB, so 512 bytes in are at most 17 MB out.
ZSTD_FEED_BYTES = 512
# Of bz2 and xz the output of a step is bounded, not the input: 40 bytes of bz2 may stand for 45 MB.
BOUNDED_FEED_BYTES, BOUNDED_OUT_BYTES = 16 << 10, 1 << 20
XZ_MEMORY_BYTES = 256 << 20  # `xz -9` takes 65 MiB
EXPANSION_FLOOR_BYTES = 64 << 20
TRIAL_BYTES = 64 << 10

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
MAX_DICTIONARY_BYTES = 16 << 20


class Damage(Exception):  # noqa: N818 - a signal between a stream and its reader, never shown as an error
    """The bytes at `offset` of the file are unusable; `recover` returns whether later ones are usable."""

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(reason, offset, detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


class Source(Protocol):
    """Source of a `Window`."""

    exact: bool
    """Whether `offset` counts bytes of the content; else it is the file offset of the member."""

    def read(self) -> bytes:
        """Next chunk, never spanning two members; empty at the end of the file. Raises Damage."""

    @property
    def offset(self) -> int:
        """File offset of the last chunk."""

    def recover(self) -> bool:
        """After Damage: go to the next readable member. False if there is none."""

    def begin_member(self, position: int, end: int | None) -> bool:
        """Begin at the first readable member from `position` on and before `end`; False if there is none."""


class PlainSource:
    """An uncompressed file."""

    exact = True

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self._file = file
        file.seek(start)
        self._offset = self._next = start

    @property
    def offset(self) -> int:
        return self._offset

    def read(self) -> bytes:
        piece = self._file.read(RAW_BYTES)
        self._offset, self._next = self._next, self._next + len(piece)
        return piece

    def recover(self) -> bool:
        return False

    def begin_member(self, position: int, end: int | None) -> bool:
        return False


@dataclass(frozen=True)
class Codec:
    """Codec of one compression format."""

    name: str
    magic: bytes
    feed_bytes: int
    errors: type[Exception]
    new: Callable[[], Any]


def gzip_codec() -> Codec:
    return Codec("gzip", GZIP_MAGIC, GZIP_FEED_BYTES, zlib.error, lambda: zlib.decompressobj(wbits=31))


def zstd_codec(dictionary: bytes | None = None) -> Codec:
    """`dictionary`: from the first frame of a .warc.zst file."""
    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    decompressor = zstandard.ZstdDecompressor(dict_data=known)
    return Codec(
        "zstd",
        ZSTD_MAGIC,
        ZSTD_FEED_BYTES,
        zstandard.ZstdError,
        lambda: decompressor.decompressobj(read_across_frames=False),
    )


class _Bounded:
    """A decompressor of bz2 or xz that gives at most `BOUNDED_OUT_BYTES` at a time."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def decompress(self, data: bytes) -> bytes:
        piece: bytes = self._inner.decompress(data, BOUNDED_OUT_BYTES)
        return piece

    @property
    def needs_input(self) -> bool:
        """Whether there is no more output from the data so far."""
        return bool(self._inner.needs_input)

    @property
    def eof(self) -> bool:
        return bool(self._inner.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._inner.unused_data)


def bz2_codec() -> Codec:
    return Codec("bz2", b"BZh", BOUNDED_FEED_BYTES, OSError, lambda: _Bounded(bz2.BZ2Decompressor()))


def xz_codec() -> Codec:
    def new() -> _Bounded:
        return _Bounded(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES))

    return Codec("xz", XZ_MAGIC, BOUNDED_FEED_BYTES, lzma.LZMAError, new)


class CompressedSource:
    """A sequence of gzip members, zstd frames, or bz2 or xz streams.

    Total output is limited to 64 MiB plus `max_expansion` times the compressed bytes read so far from `start`, against
    decompression bombs. `start` is the offset of a member. `prefix` is the known start of a member's content, if any.
    """

    exact = False

    def __init__(self, file: BinaryIO, codec: Codec, max_expansion: float, prefix: bytes = b"", start: int = 0) -> None:
        self._file = file
        self._file.seek(start)
        self._start = start
        self._codec = codec
        self._max_expansion = max_expansion
        self._prefix = prefix
        self._raw = b""
        self._raw_offset = start
        self._at = 0
        self._member: Any = None
        self._member_offset = start
        self._out = 0

    @property
    def offset(self) -> int:
        return self._member_offset

    def read(self) -> bytes:
        while True:
            if self._member is None and not self._begin_member():
                return b""
            piece = self._feed()
            if piece:
                return piece

    def _tell(self) -> int:
        return self._raw_offset + self._at

    def _seek(self, offset: int) -> None:
        self._file.seek(offset)
        self._raw, self._raw_offset, self._at, self._member = b"", offset, 0, None

    def _have(self, count: int) -> bytes:
        """Peek at up to `count` compressed bytes."""
        while len(self._raw) - self._at < count:
            more = self._file.read(RAW_BYTES)
            if not more:
                break
            self._raw_offset += self._at
            self._raw, self._at = self._raw[self._at :] + more, 0
        return self._raw[self._at : self._at + count]

    def _begin_member(self) -> bool:
        self._pass_filling()
        self._member_offset = self._tell()
        start = self._have(len(self._codec.magic))
        if not start:
            return False
        if start != self._codec.magic:
            if self._codec.magic.startswith(start):
                raise Damage("truncated", self._member_offset, f"the file ends within a {self._codec.name} header")
            raise Damage(self._corrupt, self._member_offset, f"no {self._codec.name} data starts here")
        self._member = self._codec.new()
        return True

    def _pass_filling(self) -> None:
        """Skip zero bytes after gzip members and xz streams, and skippable zstd frames."""
        if self._codec.name in ("gzip", "xz"):
            while self._have(1) == b"\0":
                rest = self._raw[self._at :].lstrip(b"\0")
                self._at = len(self._raw) - len(rest)
        if self._codec.name != "zstd":
            return
        while (header := self._have(8))[1:4] == ZSTD_SKIPPABLE and len(header) == 8 and 0x50 <= header[0] <= 0x5F:
            self._seek(self._tell() + 8 + int.from_bytes(header[4:], "little"))

    @property
    def _corrupt(self) -> str:
        return f"corrupt_{self._codec.name}"

    def _feed(self) -> bytes:
        """One bounded decompression step; empty if there is no output yet."""
        fed = b""
        if getattr(self._member, "needs_input", True):
            # Steps are counted from the start of the member, so that damage costs the same wherever reading began.
            if not self._have(self._codec.feed_bytes):
                raise Damage("truncated", self._member_offset, f"the file ends within a {self._codec.name} member")
            fed = self._raw[self._at : self._at + self._codec.feed_bytes]
        try:
            piece: bytes = self._member.decompress(fed)
        except self._codec.errors as error:
            _check_memory(error)
            raise Damage(self._corrupt, self._member_offset, str(error)) from None
        self._at += len(fed)
        if self._member.eof:
            self._at -= len(self._member.unused_data)
            self._member = None
        self._out += len(piece)
        allowed = self._allowed(self._tell())
        if self._out > allowed:
            detail = f"{self._out} bytes out of {self._tell() - self._start} compressed ones"
            # Output beyond the limit is discarded, so it does not count for following members.
            self._out = int(self._allowed(self._member_offset))
            raise Damage("expansion_limit", self._member_offset, detail)
        return piece

    def _allowed(self, offset: int) -> float:
        return EXPANSION_FLOOR_BYTES + self._max_expansion * (offset - self._start)

    def recover(self) -> bool:
        found = self._find_member(self._member_offset + 1, None)
        if found is not None:
            self._seek(found)
        return found is not None

    def begin_member(self, position: int, end: int | None) -> bool:
        found = self._find_member(position, end)
        if found is not None:
            self._seek(found)
            self._start = found
        return found is not None

    def _find_member(self, position: int, end: int | None) -> int | None:
        """Offset of the first readable member that starts at `position` or later, and before `end`."""
        while (found := self._find_magic(position, end)) is not None:
            if self._starts_well(found):
                return found
            position = found + 1
        return None

    def _find_magic(self, position: int, end: int | None) -> int | None:
        magic = self._codec.magic
        self._file.seek(position)
        kept = b""
        while (end is None or position < end) and (chunk := self._file.read(RAW_BYTES)):
            chunk = kept + chunk
            index = chunk.find(magic)
            if index >= 0:
                return position + index if end is None or position + index < end else None
            kept = chunk[-(len(magic) - 1) :]
            position += len(chunk) - len(kept)
        return None

    def _starts_well(self, offset: int) -> bool:
        """Whether data at `offset` decompresses, at least its first 64 KiB, to the expected prefix."""
        self._file.seek(offset)
        raw = self._file.read(TRIAL_BYTES)
        trial, out, at = self._codec.new(), b"", 0
        try:
            while at < len(raw) and not trial.eof and len(out) < TRIAL_BYTES:
                out += trial.decompress(raw[at : at + 512])
                at += 512
        except self._codec.errors as error:
            _check_memory(error)
            # The valid start of a partly damaged member is still read.
            return bool(self._prefix) and out.startswith(self._prefix)
        return out.startswith(self._prefix)


def _check_memory(error: Exception) -> None:
    """Raise MemoryError if a codec ran out of memory."""
    if "not enough memory" in str(error):
        raise MemoryError(str(error)) from None


def read_zstd_dictionary(file: BinaryIO) -> bytes | None:
    """Decompressed dictionary from a skippable frame at the start of a .warc.zst file; None if there is none."""
    header = file.read(8)
    size = int.from_bytes(header[4:], "little")
    dictionary = file.read(min(size, MAX_DICTIONARY_BYTES)) if header.startswith(ZSTD_DICTIONARY) else b""
    file.seek(0)
    if not dictionary or len(dictionary) != size:
        return None
    if not dictionary.startswith(ZSTD_MAGIC):
        return dictionary
    with zstandard.ZstdDecompressor().stream_reader(dictionary) as reader:
        return reader.read(MAX_DICTIONARY_BYTES)


def open_source(file: BinaryIO, compression: str, max_expansion: float, prefix: bytes = b"", start: int = 0) -> Source:
    """`compression`: gzip, zstd, bz2, xz or none. `start`: file offset, of a compressed file that of a member."""
    if compression == "none":
        return PlainSource(file, start)
    if compression == "zstd":
        codec = zstd_codec(read_zstd_dictionary(file))
    else:
        codec = {"gzip": gzip_codec, "bz2": bz2_codec, "xz": xz_codec}[compression]()
    return CompressedSource(file, codec, max_expansion, prefix, start)
