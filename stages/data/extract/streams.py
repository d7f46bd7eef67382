"""Bytes out of plain, gzip and zstd files, piece by piece, with damage named and passed over.

A compressed file is a row of members (zstd: frames). Every piece comes from one member and is of bounded size,
whatever the file claims to hold. When a member is damaged, reading goes on at the next one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import zstandard

RAW_BYTES = 1 << 18
# Deflate makes at most 1032 bytes of one byte, so 16 KiB in are at most 17 MB out.
GZIP_FEED_BYTES = 16 << 10
# A zstd block of 4 bytes may stand for 128 KiB, so 512 bytes in are at most 17 MB out.
ZSTD_FEED_BYTES = 512
EXPANSION_FLOOR_BYTES = 64 << 20
TRIAL_BYTES = 64 << 10

GZIP_MAGIC = b"\x1f\x8b\x08"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
ZSTD_DICTIONARY = b"\x5d\x2a\x4d\x18"
MAX_DICTIONARY_BYTES = 16 << 20


class Damage(Exception):  # noqa: N818 - a signal between a stream and its reader, never shown as an error
    """The bytes at `offset` of the file cannot be used; `recover` tells whether later ones can."""

    def __init__(self, reason: str, offset: int, detail: str) -> None:
        super().__init__(reason, offset, detail)
        self.reason = reason
        self.offset = offset
        self.detail = detail


class Source(Protocol):
    """What a `Window` reads from."""

    exact: bool
    """Whether `offset` counts bytes of the content; else it is where the member in the file begins."""

    def read(self) -> bytes:
        """The next piece, never spanning two members; empty at the end of the file. Raises Damage."""

    @property
    def offset(self) -> int:
        """Offset in the file that belongs to the piece read last."""

    def recover(self) -> bool:
        """After Damage: go to the next readable member. False where there is none."""


class PlainSource:
    """A file that is not compressed."""

    exact = True

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._offset = 0
        self._next = 0

    @property
    def offset(self) -> int:
        return self._offset

    def read(self) -> bytes:
        piece = self._file.read(RAW_BYTES)
        self._offset, self._next = self._next, self._next + len(piece)
        return piece

    def recover(self) -> bool:
        return False


@dataclass(frozen=True)
class Codec:
    """How the members of one compression are told apart and read."""

    name: str
    magic: bytes
    feed_bytes: int
    errors: type[Exception]
    new: Callable[[], Any]


def gzip_codec() -> Codec:
    return Codec("gzip", GZIP_MAGIC, GZIP_FEED_BYTES, zlib.error, lambda: zlib.decompressobj(wbits=31))


def zstd_codec(dictionary: bytes | None = None) -> Codec:
    """`dictionary`: the one that a .warc.zst file carries in its first frame."""
    known = zstandard.ZstdCompressionDict(dictionary) if dictionary else None
    decompressor = zstandard.ZstdDecompressor(dict_data=known)
    return Codec(
        "zstd",
        ZSTD_MAGIC,
        ZSTD_FEED_BYTES,
        zstandard.ZstdError,
        lambda: decompressor.decompressobj(read_across_frames=False),
    )


class CompressedSource:
    """A row of gzip members or zstd frames.

    All output together is limited to 64 MiB plus `max_expansion` times the compressed bytes read so far: what goes
    beyond that is no text but a bomb. `prefix` is what a member's content begins with, where that is known.
    """

    exact = False

    def __init__(self, file: BinaryIO, codec: Codec, max_expansion: float, prefix: bytes = b"") -> None:
        self._file = file
        self._codec = codec
        self._max_expansion = max_expansion
        self._prefix = prefix
        self._raw = b""
        self._raw_offset = 0
        self._at = 0
        self._member: Any = None
        self._member_offset = 0
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
        """Up to `count` compressed bytes that come next, without taking them."""
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
            raise Damage(self._corrupt, self._member_offset, f"no {self._codec.name} data begins here")
        self._member = self._codec.new()
        return True

    def _pass_filling(self) -> None:
        """Zero bytes after a gzip member and skippable zstd frames carry nothing."""
        if self._codec.name == "gzip":
            while self._have(1) == b"\0":
                rest = self._raw[self._at :].lstrip(b"\0")
                self._at = len(self._raw) - len(rest)
            return
        while (header := self._have(8))[1:4] == ZSTD_SKIPPABLE and len(header) == 8 and 0x50 <= header[0] <= 0x5F:
            self._seek(self._tell() + 8 + int.from_bytes(header[4:], "little"))

    @property
    def _corrupt(self) -> str:
        return f"corrupt_{self._codec.name}"

    def _feed(self) -> bytes:
        """One bounded step of decompression; empty where the step gave no output yet."""
        if not self._have(1):
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
        allowed = EXPANSION_FLOOR_BYTES + self._max_expansion * self._tell()
        if self._out > allowed:
            detail = f"{self._out} bytes out of {self._tell()} compressed ones"
            # What came beyond the limit is thrown away, so it is not held against the members that follow.
            self._out = int(allowed)
            raise Damage("expansion_limit", self._member_offset, detail)
        return piece

    def recover(self) -> bool:
        position = self._member_offset + 1
        while (found := self._find_magic(position)) is not None:
            if self._starts_well(found):
                self._seek(found)
                return True
            position = found + 1
        return False

    def _find_magic(self, position: int) -> int | None:
        magic = self._codec.magic
        self._file.seek(position)
        kept = b""
        while chunk := self._file.read(RAW_BYTES):
            chunk = kept + chunk
            index = chunk.find(magic)
            if index >= 0:
                return position + index
            kept = chunk[-(len(magic) - 1) :]
            position += len(chunk) - len(kept)
        return None

    def _starts_well(self, offset: int) -> bool:
        """Whether what begins at `offset` decompresses, at least its first 64 KiB, to what the content begins with."""
        self._file.seek(offset)
        raw = self._file.read(TRIAL_BYTES)
        trial, out, at = self._codec.new(), b"", 0
        try:
            while at < len(raw) and not trial.eof and len(out) < TRIAL_BYTES:
                out += trial.decompress(raw[at : at + 512])
                at += 512
        except self._codec.errors as error:
            _check_memory(error)
            # The good start of a member that is damaged further on is worth reading.
            return bool(self._prefix) and out.startswith(self._prefix)
        return out.startswith(self._prefix)


def _check_memory(error: Exception) -> None:
    """Raise MemoryError where a codec complains of the machine and not of the bytes."""
    if "not enough memory" in str(error):
        raise MemoryError(str(error)) from None


def read_zstd_dictionary(file: BinaryIO) -> bytes | None:
    """The dictionary in a skippable frame at the start of a .warc.zst file, decompressed; None where there is none."""
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


def open_source(file: BinaryIO, compression: str, max_expansion: float, prefix: bytes = b"") -> Source:
    """`compression`: gzip, zstd or none."""
    if compression == "gzip":
        return CompressedSource(file, gzip_codec(), max_expansion, prefix)
    if compression == "zstd":
        return CompressedSource(file, zstd_codec(read_zstd_dictionary(file)), max_expansion, prefix)
    return PlainSource(file)
