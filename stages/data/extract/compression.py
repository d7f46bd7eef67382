"""Compression of a file, by name and first bytes."""

from __future__ import annotations

import re
from pathlib import PurePath

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz"}
FIRST_BYTES = 10
# Size of the blocks, and the first bytes of a block or of the end.
BZ2_START = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
XZ_MAGIC = b"\xfd7zXZ\0"


def suffix_of(name: str) -> tuple[str, bool]:
    """Lower-case file extension without that of compression, and whether it was compressed."""
    path = PurePath(name.lower())
    compressed = path.suffix in COMPRESSIONS
    return (path.with_suffix("") if compressed else path).suffix, compressed


def compression_of(name: str, first: bytes) -> str:
    """gzip, zstd, bz2, xz or none: by the file's first bytes, or by its name if those are damaged."""
    if first.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if first.startswith(b"\x28\xb5\x2f\xfd") or first[1:4] == b"\x2a\x4d\x18":
        return "zstd"
    if BZ2_START.match(first):
        return "bz2"
    if first.startswith(XZ_MAGIC):
        return "xz"
    return COMPRESSIONS.get(PurePath(name.lower()).suffix, "none") if first else "none"
