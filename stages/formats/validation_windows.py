"""Validation windows: spread over a token file, in file order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from longcat.pipeline.tokens import TokenFile
from longcat.stages.formats.windows import IGNORED, Ids


class ValidationWindows(NamedTuple):
    """Inputs and targets [n, L], and `Window.starts` of every row; None: without the document mask."""

    inputs: Ids
    targets: Ids
    starts: tuple[Ids, ...] | None

    @property
    def tokens(self) -> int:
        """Number of targets."""
        return int((self.targets != IGNORED).sum())

    @property
    def filled(self) -> int:
        """Inputs up to the last target of any row; what follows is padding."""
        places = np.flatnonzero((self.targets != IGNORED).any(axis=0))
        return int(places[-1]) + 1 if len(places) else 0

    def rows(self, first: int, end: int) -> ValidationWindows:
        return ValidationWindows(
            self.inputs[first:end], self.targets[first:end], None if self.starts is None else self.starts[first:end]
        )

    def padded(self, rows: int) -> ValidationWindows:
        """With so many more rows without targets."""
        none = (np.zeros(1, dtype=np.int64),) * rows
        return ValidationWindows(
            np.pad(self.inputs, ((0, rows), (0, 0))),
            np.pad(self.targets, ((0, rows), (0, 0)), constant_values=IGNORED),
            None if self.starts is None else self.starts + none,
        )

    def cu_seqlens(self, length: int | None = None) -> npt.NDArray[np.int32] | None:
        """As `Batch.cu_seqlens`, of the first `length` tokens of every row; None without the document mask."""
        if self.starts is None:
            return None
        width = self.inputs.shape[1] if length is None else length
        starts = [row * width + places[places < width] for row, places in enumerate(self.starts)]
        return np.concatenate([*starts, [len(self.inputs) * width]]).astype(np.int32)


def validation_windows(
    tokens: TokenFile,
    sequence_length: int,
    count: int,
    *,
    document_mask: bool = True,
    across_documents: bool = True,
) -> ValidationWindows:
    """At most `count` windows of L tokens spread evenly over a token file, in file order.

    Without `across_documents` the first token of a document is no target.

    The last window may be short: its missing inputs are 0 and its missing targets `IGNORED`. n is 0 for a file that
    holds fewer than two tokens.
    """
    available = max(0, -(-(tokens.total_tokens - 1) // sequence_length))
    chosen = sorted({index * available // count for index in range(count)}) if available else []
    inputs = np.zeros((len(chosen), sequence_length), dtype=np.int64)
    targets = np.full((len(chosen), sequence_length), IGNORED, dtype=np.int64)
    for row, index in enumerate(chosen):
        piece = tokens.tokens[index * sequence_length : (index + 1) * sequence_length + 1]
        inputs[row, : len(piece) - 1] = piece[:-1]
        targets[row, : len(piece) - 1] = piece[1:]
    offsets = tokens.document_offsets
    if not across_documents:
        for row, index in enumerate(chosen):
            firsts = _starts_within(offsets, index * sequence_length, sequence_length + 1)[1:]
            targets[row, firsts - 1] = IGNORED
    if not document_mask:
        return ValidationWindows(inputs, targets, None)
    starts = [_starts_within(offsets, index * sequence_length, sequence_length) for index in chosen]
    return ValidationWindows(inputs, targets, tuple(starts))


def _starts_within(offsets: Ids, start: int, length: int) -> Ids:
    """Starts of documents in a window of a token file, relative to it, 0 included."""
    first, last = np.searchsorted(offsets, [start + 1, start + length])
    return np.concatenate([[0], np.asarray(offsets[first:last], dtype=np.int64) - start]).astype(np.int64)
