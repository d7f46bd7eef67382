"""Token files: `<prefix>.bin` holds the ids of all documents, `<prefix>.idx` the position of each document.

The format of Megatron-LM's `IndexedDataset`: magic, version 1, a dtype code, the counts, then sequence
lengths (int32), byte offsets (int64) and document boundaries (int64). Here every document is one sequence.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.errors import InputError, IntegrityError
from longcat.pipeline.faults import open_input
from longcat.pipeline.files import fsync_folder

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
DTYPE_CODES: dict[int, type[np.generic]] = {4: np.int32, 8: np.uint16}
# Megatron switches to four bytes at this vocabulary size.
UINT16_VOCABULARY = 65500
_HEADER = struct.Struct("<9sQBQQ")


def dtype_for(vocab_size: int) -> type[np.generic]:
    """Element type of a token file for a vocabulary size."""
    return np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32


class TokenWriter:
    """Writes a token file pair document by document; the `.idx` appears last, when the pair is complete."""

    def __init__(self, prefix: Path, vocab_size: int) -> None:
        self.prefix = prefix
        self.vocab_size = vocab_size
        self.dtype = dtype_for(vocab_size)
        self._lengths: list[int] = []
        prefix.parent.mkdir(parents=True, exist_ok=True)
        self._stream = _sibling(prefix, ".bin").open("wb")

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        self._stream.close()

    def add_document(self, ids: npt.ArrayLike) -> None:
        """Append one document of token ids.

        Raises:
            InputError: an id is negative or not below the vocabulary size.
        """
        tokens = np.asarray(ids)
        self.add_documents(tokens, [int(tokens.size)])

    def add_documents(self, tokens: npt.NDArray[Any], lengths: Sequence[int]) -> None:
        """Append documents of these lengths, whose ids are one after the other in `tokens`.

        Raises:
            InputError: an id is negative or not below the vocabulary size.
        """
        if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise InputError(
                f"token ids from {tokens.min()} to {tokens.max()} for a vocabulary of {self.vocab_size}",
                where=str(self.prefix),
            )
        self._stream.write(tokens.astype(self.dtype, copy=False).tobytes())
        self._lengths += lengths

    def finish(self) -> None:
        """Complete the pair and flush it to disk."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        lengths = np.asarray(self._lengths, dtype=np.int32)
        width = np.dtype(self.dtype).itemsize
        starts = np.zeros(len(lengths), dtype=np.int64)
        np.cumsum(lengths[:-1], dtype=np.int64, out=starts[1:])
        code = next(code for code, dtype in DTYPE_CODES.items() if dtype is self.dtype)
        header = _HEADER.pack(MAGIC, VERSION, code, len(lengths), len(lengths) + 1)
        boundaries = np.arange(len(lengths) + 1, dtype=np.int64)
        with _sibling(self.prefix, ".idx").open("wb") as stream:
            stream.write(header + lengths.tobytes() + (starts * width).tobytes() + boundaries.tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        fsync_folder(self.prefix.parent)


class TokenFile:
    """Memory-mapped token file pair: the cost of opening does not depend on its size."""

    def __init__(self, prefix: Path) -> None:
        """Open `<prefix>.bin` and `<prefix>.idx`.

        Raises:
            IntegrityError: a file is missing, is not a token file, or the two do not match.
        """
        self.prefix = prefix
        index, data = _sibling(prefix, ".idx"), _sibling(prefix, ".bin")
        for path in (index, data):
            if not path.is_file():
                raise IntegrityError("the token file is missing", where=str(path))
        self.dtype, lengths = _read_index(index)
        self.document_offsets: npt.NDArray[np.int64] = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=self.document_offsets[1:])
        expected = self.total_tokens * np.dtype(self.dtype).itemsize
        if data.stat().st_size != expected:
            raise IntegrityError(f"{data.stat().st_size} bytes, its index says {expected}", where=str(data))
        self.tokens: npt.NDArray[np.generic] = (
            np.memmap(data, dtype=self.dtype, mode="r") if expected else np.zeros(0, dtype=self.dtype)
        )

    @property
    def total_tokens(self) -> int:
        return int(self.document_offsets[-1])

    @property
    def n_documents(self) -> int:
        return len(self.document_offsets) - 1

    def document(self, number: int) -> npt.NDArray[np.generic]:
        """Token ids of one document."""
        return self.tokens[self.document_offsets[number] : self.document_offsets[number + 1]]


def _sibling(prefix: Path, suffix: str) -> Path:
    return prefix.with_name(prefix.name + suffix)


def _read_index(path: Path) -> tuple[type[np.generic], npt.NDArray[np.int32]]:
    size = path.stat().st_size
    with open_input(path) as stream:
        head = stream.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(MAGIC):
            raise IntegrityError("not a token index", where=str(path))
        _, version, code, sequences, documents = _HEADER.unpack(head)
        if version != VERSION or code not in DTYPE_CODES:
            raise IntegrityError(f"token index version {version}, dtype code {code} are not known", where=str(path))
        if size != _HEADER.size + 12 * sequences + 8 * documents:
            raise IntegrityError(f"{size} bytes do not hold {sequences} sequences", where=str(path))
        lengths = np.frombuffer(stream.read(4 * sequences), dtype=np.int32)
    return DTYPE_CODES[code], lengths
