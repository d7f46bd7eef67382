"""Rows of equal length in pages of their own: a bare loop over a batch, as benchmarks and tests run it.

Names: B rows, T new tokens of every row, D hidden, V vocabulary, L positions per page.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.errors import ModelError
from longcat.model.moe.mixture import LayerRouting
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash


class RowsOutput(NamedTuple):
    """logits: float32 [B, kept tokens, V]. hidden_BTD: after the final norm. routing: of every layer."""

    logits: torch.Tensor
    hidden_BTD: torch.Tensor
    routing: tuple[LayerRouting, ...]


class Rows:
    """`batch` texts that grow together up to `max_length` positions, each in consecutive pages.

    What is appended first is the prompt, which an offloaded cache treats as such (`model.attention.offload`).

    length: positions of the model. mtp_length: those of multi-token prediction, whose position t needs token t + 1.
    """

    def __init__(
        self,
        model: LongcatFlash,
        batch: int,
        max_length: int,
        page_size: int = 16,
        offload: OffloadOptions | None = None,
    ) -> None:
        self.model, self.batch, self.max_length = model, batch, max_length
        held = max(1, -(-max_length // page_size))
        self.cache = model.new_pages(batch * held, page_size, slots=batch, offload=offload)
        self._tables = [list(range(row * held, (row + 1) * held)) for row in range(batch)]
        self._ids: list[list[int]] = [[] for _ in range(batch)]
        self._prompt = 0
        self.mtp_length = 0

    @property
    def length(self) -> int:
        """Cached positions of every row."""
        return len(self._ids[0]) if self._ids else 0

    def append(self, ids_BT: torch.Tensor, logits_to_keep: int | None = None) -> RowsOutput:
        """Take the next tokens of every row; logits of all of them, or of the last `logits_to_keep`.

        Raises:
            ModelError: the rows do not fit, or as in `LongcatFlash.step`.
        """
        tokens = ids_BT.shape[1]
        self._prompt = self._prompt if self.length else tokens
        kept = tokens if logits_to_keep is None else min(logits_to_keep, tokens)
        output = self.model.step(self._batch(ids_BT, self.length, kept), self.cache)
        for own, new in zip(self._ids, ids_BT.tolist(), strict=True):
            own.extend(new)
        return RowsOutput(
            output.logits_RV.view(self.batch, kept, -1), output.hidden_TD.view(self.batch, tokens, -1), output.routing
        )

    def predict(self, hidden_BTD: torch.Tensor, next_ids_BT: torch.Tensor) -> RowsOutput:
        """Multi-token prediction at the positions from `mtp_length` on; see `LongcatFlash.mtp_step`.

        Raises:
            ModelError: as in `append`, or the model lacks this layer.
        """
        batch = self._batch(next_ids_BT, self.mtp_length, next_ids_BT.shape[1])
        output = self.model.mtp_step(hidden_BTD.flatten(0, 1), batch, self.cache)
        self.mtp_length += next_ids_BT.shape[1]
        logits, hidden_BTD = (x.view(*next_ids_BT.shape, -1) for x in (output.logits_RV, output.hidden_TD))
        return RowsOutput(logits, hidden_BTD, ())

    def rewind(self, length: int) -> int:
        """Drop the positions from `length` on; for multi-token prediction also the last one kept.

        That one was computed from the token after it, which may change. Returns the remaining length: 0 if a mixer
        keeps a state per sequence, which cannot go back.

        Raises:
            ModelError: `length` is negative or more than what is cached.
        """
        if not 0 <= length <= self.length:
            raise ModelError(f"cannot rewind rows of {self.length} positions to {length}")
        if self.cache.recurrent and length < self.length:
            length = 0
        for own in self._ids:
            del own[length:]
        self.mtp_length = min(self.mtp_length, max(length - 1, 0))
        return length

    def _batch(self, ids_BT: torch.Tensor, start: int, logits: int) -> StepBatch:
        batch, tokens = ids_BT.shape
        if batch != self.batch:
            raise ModelError(f"the cache was made for {self.batch} rows, the input has {batch}")
        if start + tokens > self.max_length:
            raise ModelError(
                f"the rows hold {start} of at most {self.max_length} positions, {tokens} more do not fit; "
                "make longer rows or rewind these"
            )
        look_back = self.model.model.embed_tokens.look_back
        pieces = [
            Piece(
                ids,
                start,
                self._tables[row],
                logits,
                self._ids[row][max(0, start - look_back) : start],
                row,
                self._prompt,
            )
            for row, ids in enumerate(ids_BT.tolist())
        ]
        return StepBatch.of(pieces, self.cache.page_size, ids_BT.device, look_back)
