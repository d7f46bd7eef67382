"""N-gram tables on disk: only the rows read come into memory, with the values that a loaded table has.

The files of a checkpoint are memory-mapped. A page fault brings several pages of a cached file into the process, so the
pages are given back (to the system's cache) after every `KEPT_ROWS` rows.

Names: B batch, T tokens, I tables, W values of a row.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import torch

from longcat.model.config import ModelConfig
from longcat.model.embeddings.ngram import NgramEmbedding
from longcat.model.errors import CheckpointError
from longcat.model.safetensors_files import DTYPES, WIDTHS, Stored

KEPT_ROWS = 1024


class MappedTables:
    """Rows of n-gram tables in the safetensors files of a folder; `stored` is in the order of the tables."""

    def __init__(self, folder: Path, stored: Sequence[Stored]) -> None:
        self._maps: dict[str, mmap.mmap] = {}
        self._tables: list[tuple[torch.Tensor, torch.dtype, Path]] = []
        self._read = 0
        for table in stored:
            if table.file not in self._maps:
                with (folder / table.file).open("rb") as file:
                    # Private, so that torch takes the buffer for a writable one; nothing is written.
                    self._maps[table.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                self._maps[table.file].madvise(mmap.MADV_RANDOM)
            rows, width = table.shape
            # Bytes: a file may begin a tensor at any byte.
            values = torch.frombuffer(
                self._maps[table.file], dtype=torch.uint8, count=table.nbytes, offset=table.start
            ).view(rows, width * WIDTHS[table.dtype])
            self._tables.append((values, DTYPES[table.dtype], folder / table.file))

    def read(self, rows_TI: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The rows [T, I * W] at these numbers, one of each table, on the CPU.

        Raises:
            CheckpointError: a value is not finite, which a model that is loaded whole is checked for at once.
        """
        parts = []
        for (bytes_RX, stored, path), rows_T in zip(self._tables, rows_TI.unbind(1), strict=True):
            parts.append(bytes_RX.index_select(0, rows_T).view(stored).to(dtype))
            if not parts[-1].isfinite().all():
                row = int(rows_T[(~parts[-1].isfinite()).any(dim=1)][0])
                raise CheckpointError(f"{path}: row {row} of an n-gram table is not finite; the checkpoint is damaged")
        self._read += rows_TI.numel()
        if self._read >= KEPT_ROWS:
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return torch.cat(parts, dim=1)


class MappedNgramEmbedding(NgramEmbedding):
    """`NgramEmbedding` for inference, whose tables stay on disk."""

    def __init__(self, config: ModelConfig, tables: MappedTables) -> None:
        with torch.device("meta"):
            super().__init__(config)
        del self.tables
        self._mapped = tables

    def read(self, rows_BTI: torch.Tensor) -> torch.Tensor:
        rows_XI = rows_BTI.flatten(0, -2).cpu() - torch.tensor(self.hashing.sizes.starts)
        read_XW = self._mapped.read(rows_XI, self.weight.dtype).to(self.weight.device)
        return read_XW.view(*rows_BTI.shape[:-1], -1)
