"""Attention over paged latents on a CPU: two products and a softmax per sequence, without a copy of consecutive pages.

Additional names: X queries and heads together, S positions of a sequence.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, Self

import torch

from longcat.kernels.mla_paged_decode import reference
from longcat.kernels.mla_paged_decode.sequences import Row, SequencePages
from longcat.kernels.precision import accumulation_dtype

ALIGNED = 64  # bytes


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    sequences: SequencePages,
    latent_width: int,
    scale: float,
    splits: int | None,
) -> torch.Tensor:
    """See `kernels.mla_paged_decode.mla_paged_decode`."""
    exact = q_BTHE.dtype == pages_PLE.dtype == accumulation_dtype(q_BTHE.dtype)
    if not exact or not q_BTHE.numel():
        return reference.mla_paged_decode(q_BTHE, pages_PLE, sequences, latent_width, scale, splits)
    batch, tokens, heads, _ = q_BTHE.shape
    q_BXE = (q_BTHE * scale).flatten(1, 2)
    o_YC = attend(q_BXE.unbind(), Memory.of(pages_PLE, latent_width), sequences, tokens)
    return o_YC.view(batch, tokens, heads, latent_width)


class Memory(NamedTuple):
    """Positions of all pages, transposed, and without rotary keys."""

    positions_NE: torch.Tensor
    positions_EN: torch.Tensor
    latents_NC: torch.Tensor

    @classmethod
    def of(cls, pages_PLE: torch.Tensor, latent_width: int) -> Self:
        """Views of the pages."""
        positions_NE = pages_PLE.flatten(0, 1)
        return cls(positions_NE, positions_NE.t(), positions_NE[:, :latent_width])

    def read(self, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [E, S] and values [S, C] of a sequence."""
        if row.places_S is None:  # few calls: they take as long as the products of a short sequence
            keys_ES = self.positions_EN.narrow(1, row.first, row.length)
            return keys_ES, self.latents_NC.narrow(0, row.first, row.length)
        cached_SE = row.read(self.positions_NE)
        return cached_SE.t(), cached_SE[:, : self.latents_NC.shape[1]]


def attend(queries: Sequence[torch.Tensor], memory: Memory, sequences: SequencePages, tokens: int) -> torch.Tensor:
    """Outputs [B * X, C] of the scaled queries [X, E] of every sequence, each ordered by token."""
    if len(queries) == 1:
        return _one(queries[0], memory, sequences.rows[0], tokens)
    return torch.cat([_one(q_XE, memory, row, tokens) for q_XE, row in zip(queries, sequences.rows, strict=True)])


def _one(q_XE: torch.Tensor, memory: Memory, row: Row, tokens: int) -> torch.Tensor:
    """Output [X, C] of the scaled queries of one sequence, ordered by token."""
    if row.length < tokens:
        return _blind(q_XE, memory, row, tokens)
    if q_XE.data_ptr() % ALIGNED:  # the rounding of matrix products depends on the alignment of the operands
        q_XE = q_XE.clone()
    keys_ES, values_SC = memory.read(row)
    scores_XS = torch.mm(q_XE, keys_ES)
    if tokens > 1:
        scores_XS.view(tokens, -1, row.length)[:, :, -tokens:].add_(_later(tokens, scores_XS.dtype))
    return torch.mm(scores_XS.softmax(dim=-1), values_SC)


def _blind(q_XE: torch.Tensor, memory: Memory, row: Row, tokens: int) -> torch.Tensor:
    """The same if there are fewer positions than tokens: the first queries see nothing and give zeros."""
    heads = q_XE.shape[0] // tokens
    blind_XC = q_XE.new_zeros((tokens - row.length) * heads, memory.latents_NC.shape[1])
    if not row.length:
        return blind_XC
    return torch.cat((blind_XC, _one(q_XE[blind_XC.shape[0] :], memory, row, row.length)))


@lru_cache(maxsize=64)
def _later(tokens: int, dtype: torch.dtype) -> torch.Tensor:
    """Minus infinity for keys after the query, [T, 1, T]."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype).triu_(1).unsqueeze(1)
