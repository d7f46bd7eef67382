"""Context parallelism for latent attention: every process holds a part of each row.

Keys and values of all heads come from the latent and the shared rotary key: 576 values per token in LongCat-Flash,
instead of 20,480 for full keys and values. So these two are gathered, and every process expands the positions that its
queries attend to. The backward pass sums the gradient of the gathered values over the processes and returns to each the
part of its own tokens.

Process r of c holds the chunks r and 2c - 1 - r of every row (`chunks_of`). The queries of a chunk are the last of the
positions up to its end, as causal attention expects.

Names: B batch, T tokens of this process, S positions of a row, U tokens of a chunk, W gathered width, H heads,
Q query and key width, V value width, E keys of a document, P processes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable

from longcat.kernels.mla_attention import document_lengths, mla_attention
from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.pages import StateKind
from longcat.model.errors import ModelError


def chunks_of(rank: int, size: int) -> tuple[int, int]:
    """The two chunks, of 2 * `size`, that process `rank` of `size` holds of every row.

    Late chunks attend to more keys than early ones; each pair attends to the same number.
    """
    return rank, 2 * size - 1 - rank


class SharedContextAttention(MultiHeadLatentAttention):
    """Context-parallel form of an attention module, with its parameters."""

    def __init__(self, whole: MultiHeadLatentAttention, group: dist.ProcessGroup) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(whole.__dict__)
        self.group = group
        self.chunks = chunks_of(group.rank(), group.size())

    def state_kind(self) -> StateKind:
        raise ModelError("a step needs whole rows; generate without context parallelism")

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        """As in a single process; `latent_BSC` and `k_rope_BSR` are those of this process's tokens."""
        joint_BSW = gather_rows(torch.cat((latent_BSC, k_rope_BSR), dim=-1), self.group)
        seen_BSW = joint_BSW[:, : self._ends(q_nope_BTHN.shape[1])[1]]
        latent_BSC, k_rope_BSR = seen_BSW.split((self.latent_width, self.rope_width), dim=-1)
        k_BSHQ, v_BSHV = self.expand(latent_BSC, k_rope_BSR)
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
        if where.cu_seqlens is None:
            return self._attend_chunks(q_BTHQ, k_BSHQ, v_BSHV)
        lengths = document_lengths(where.cu_seqlens, *joint_BSW.shape[:2])
        return self._attend_documents(q_BTHQ, k_BSHQ, v_BSHV, _by_row(lengths, joint_BSW.shape[1]))

    def _ends(self, tokens: int) -> tuple[int, int]:
        """One past the last position of both chunks; the second is the later one."""
        first, second = self.chunks
        return (first + 1) * (tokens // 2), (second + 1) * (tokens // 2)

    def _attend_chunks(self, q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor) -> torch.Tensor:
        pieces = [
            mla_attention(q_BUHQ, k_BSHQ[:, :end], v_BSHV[:, :end], self.softmax_scale, window=self.window)
            for q_BUHQ, end in zip(q_BTHQ.chunk(2, dim=1), self._ends(q_BTHQ.shape[1]), strict=True)
        ]
        return torch.cat(pieces, dim=1)

    def _attend_documents(
        self, q_BTHQ: torch.Tensor, k_BSHQ: torch.Tensor, v_BSHV: torch.Tensor, lengths: list[list[int]]
    ) -> torch.Tensor:
        """`lengths` are the document lengths of every row."""
        rows = zip(q_BTHQ.unbind(), k_BSHQ.unbind(), v_BSHV.unbind(), lengths, strict=True)
        return torch.stack([self._attend_row(*row) for row in rows])

    def _attend_row(
        self, q_THQ: torch.Tensor, k_SHQ: torch.Tensor, v_SHV: torch.Tensor, lengths: list[int]
    ) -> torch.Tensor:
        """The queries of every document in a chunk, on the keys of the document up to the last of them."""
        bounds = [min(bound, k_SHQ.shape[0]) for bound in itertools.accumulate(lengths, initial=0)]
        # Split once: its backward is one concatenation, while slices would each need a full copy.
        k_documents, v_documents = (x.split([b - a for a, b in itertools.pairwise(bounds)]) for x in (k_SHQ, v_SHV))
        spans = list(self._spans(bounds, q_THQ.shape[0]))
        pieces = []
        for q_UHQ, (document, _, keys) in zip(q_THQ.split([queries for _, queries, _ in spans]), spans, strict=True):
            k_EHQ, v_EHV = k_documents[document][:keys], v_documents[document][:keys]
            qkv = q_UHQ[None], k_EHQ[None], v_EHV[None]
            pieces.append(mla_attention(*qkv, self.softmax_scale, window=self.window)[0])
        return torch.cat(pieces)

    def _spans(self, bounds: list[int], tokens: int) -> Iterator[tuple[int, int, int]]:
        """(document, queries, keys) of every piece of the two chunks, in the order of the queries."""
        for end in self._ends(tokens):
            for document, (begin, stop) in enumerate(itertools.pairwise(bounds)):
                first, last = max(begin, end - tokens // 2), min(stop, end)
                if first < last:
                    yield document, last - first, last - begin


def gather_rows(x_BTW: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Gather whole rows [B, S, W], in position order, from the parts of all processes."""
    x_BSW: torch.Tensor = _GatherRows.apply(x_BTW, group)
    return x_BSW


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTW: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        parts_PBTW = x_BTW.new_empty(group.size(), *x_BTW.shape)
        dist.all_gather_single(parts_PBTW.flatten(0, 1), x_BTW.contiguous(), group=group)
        chunks = _in_order([half for part in parts_PBTW.unbind() for half in part.chunk(2, dim=1)])
        return torch.cat(chunks, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_BSW = gradients[0]
        size = ctx.group.size()
        chunks = grad_BSW.to(accumulation_dtype(grad_BSW.dtype)).chunk(2 * size, dim=1)
        pairs = (chunks_of(rank, size) for rank in range(size))
        parts = [torch.cat((chunks[first], chunks[second]), dim=1) for first, second in pairs]
        grad_BTW = torch.empty_like(parts[0])
        dist.reduce_scatter_single(grad_BTW, torch.cat(parts), group=ctx.group)
        return grad_BTW.to(grad_BSW.dtype), None


def _in_order(halves: list[torch.Tensor]) -> list[torch.Tensor]:
    """Chunks of a row in position order, from the chunks of all processes."""
    size = len(halves) // 2
    places = [chunk for rank in range(size) for chunk in chunks_of(rank, size)]
    return [halves[places.index(chunk)] for chunk in range(2 * size)]


def _by_row(lengths: list[int], positions: int) -> list[list[int]]:
    """Document lengths by row; documents do not cross row ends."""
    rows: list[list[int]] = [[]]
    for length in lengths:
        if sum(rows[-1]) == positions:
            rows.append([])
        rows[-1].append(length)
    return rows
