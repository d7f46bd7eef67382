"""Attention to blocks of positions, for benchmarks of what balances sparse attention (after MoBA, arXiv 2502.13189).

The queries of a block attend to the k / `BLOCK` blocks of their document whose mean key has the greatest scores with
their mean query, their own block among them. The work is proportional to k.

Names: B rows, T tokens of a row, N tokens of a document, U blocks of a document, C chosen blocks, H heads, X tokens of
a block, Y tokens of the chosen blocks, Q query width, R budgets.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from longcat.kernels.mla_attention import mla_attention
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.options import MixerOptions
from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash

BLOCK = 64


class BlockOptions(MixerOptions):
    k: int = Field(default=512, ge=BLOCK, description="positions that a token attends to, in whole blocks")


class BlockAttention(MultiHeadLatentAttention):
    """See the module."""

    kind: ClassVar[str] = "blocks"
    Options = BlockOptions

    @classmethod
    def budget_in(cls, config: ModelConfig, slot: int) -> int | None:
        options = config.mixer(slot).options
        assert isinstance(options, BlockOptions)
        return options.k

    def __init__(self, config: ModelConfig, slot: int, options: BlockOptions) -> None:
        super().__init__(config, slot, options)
        self.k = options.k

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        k_BTHQ, v_BTHV = self.expand(latent_BSC, k_rope_BSR)
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
        budgets = [self.k] * len(q_BTHQ) if where.budgets_B is None else where.budgets_B.tolist()

        def one(row: int, part: slice) -> torch.Tensor:
            return self._document(q_BTHQ[row, part], k_BTHQ[row, part], v_BTHV[row, part], budgets[row])

        return _by_document(one, where, *q_BTHQ.shape[:2])

    def coverage(self, x_BTD: torch.Tensor, where: SequenceContext, budgets: Sequence[int]) -> torch.Tensor:
        q_nope_BTHN, q_rope_BTHR, latent_BTC, k_rope_BTR = self.project(x_BTD, where)
        k_BTHQ, _ = self.expand(latent_BTC, k_rope_BTR)
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)

        def one(row: int, part: slice) -> torch.Tensor:
            return self._covered(q_BTHQ[row, part], k_BTHQ[row, part], budgets)

        return _by_document(one, where, *q_BTHQ.shape[:2])

    def _document(self, q_NHQ: torch.Tensor, k_NHQ: torch.Tensor, v_NHV: torch.Tensor, budget: int) -> torch.Tensor:
        tokens = len(q_NHQ)
        if tokens <= budget:
            return mla_attention(q_NHQ[None], k_NHQ[None], v_NHV[None], self.softmax_scale)[0]
        q_UXHQ, k_UXHQ, v_UXHV = (_blocks(x) for x in (q_NHQ, k_NHQ, v_NHV))
        chosen_UC = _choose(q_UXHQ, k_UXHQ, budget)
        k_UYHQ, v_UYHV = (x[chosen_UC].flatten(1, 2) for x in (k_UXHQ, v_UXHV))
        at_X = torch.arange(BLOCK)
        keys_UY = (chosen_UC.unsqueeze(-1) * BLOCK + at_X).flatten(1)
        queries_UX = torch.arange(len(q_UXHQ)).unsqueeze(1) * BLOCK + at_X
        seen_UXY = keys_UY.unsqueeze(1) <= queries_UX.unsqueeze(2)
        heads = (x.transpose(1, 2) for x in (q_UXHQ, k_UYHQ, v_UYHV))
        o_UHXV = F.scaled_dot_product_attention(*heads, attn_mask=seen_UXY.unsqueeze(1), scale=self.softmax_scale)
        return o_UHXV.transpose(1, 2).flatten(0, 1)[:tokens]

    def _covered(self, q_NHQ: torch.Tensor, k_NHQ: torch.Tensor, budgets: Sequence[int]) -> torch.Tensor:
        tokens = len(q_NHQ)
        scores_HNN = torch.einsum("nhq,mhq->hnm", q_NHQ, k_NHQ) * self.softmax_scale
        hidden_NN = torch.ones(tokens, tokens, dtype=torch.bool).triu(1)
        mass_NN = scores_HNN.masked_fill_(hidden_NN, -math.inf).softmax(-1).mean(0)
        mass_NU = F.pad(mass_NN, (0, -tokens % BLOCK)).unflatten(1, (-1, BLOCK)).sum(-1)
        q_UXHQ, k_UXHQ = _blocks(q_NHQ), _blocks(k_NHQ)
        shares = []
        for budget in budgets:
            chosen_UC = _choose(q_UXHQ, k_UXHQ, budget)
            of_tokens_NC = chosen_UC.repeat_interleave(BLOCK, dim=0)[:tokens]
            whole = torch.ones(tokens)
            shares.append(whole if tokens <= budget else mass_NU.gather(1, of_tokens_NC).sum(1))
        return torch.stack(shares, dim=-1)


def _by_document(
    one: Callable[[int, slice], torch.Tensor], where: SequenceContext, batch: int, tokens: int
) -> torch.Tensor:
    """Results of `one` for (row, places) of every document, joined to [B, T, ...]."""
    bounds = [0, tokens] if where.cu_seqlens is None else where.cu_seqlens.tolist()
    bounds = sorted({*bounds, *range(0, batch * tokens + 1, tokens)})
    parts = [
        one(first // tokens, slice(first % tokens, first % tokens + end - first))
        for first, end in itertools.pairwise(bounds)
    ]
    return torch.cat(parts).unflatten(0, (batch, tokens))


def _blocks(x_NHQ: torch.Tensor) -> torch.Tensor:
    return F.pad(x_NHQ, (0, 0, 0, 0, 0, -len(x_NHQ) % BLOCK)).unflatten(0, (-1, BLOCK))


@torch.no_grad()
def _choose(q_UXHQ: torch.Tensor, k_UXHQ: torch.Tensor, budget: int) -> torch.Tensor:
    """Chosen blocks [U, C] of every block of queries; later ones only where there are too few before."""
    scores_UU = torch.einsum("uhq,whq->uw", q_UXHQ.mean(1), k_UXHQ.mean(1))
    places_U = torch.arange(len(scores_UU))
    scores_UU.masked_fill_(places_U > places_U.unsqueeze(1), -math.inf).fill_diagonal_(math.inf)
    return scores_UU.topk(min(len(scores_UU), max(1, budget // BLOCK)), dim=1).indices


@torch.no_grad()
def prefer_near_positions(model: LongcatFlash, ids_BT: torch.Tensor, strength: float) -> None:
    """Change a new model so that attention prefers near positions, as in trained models; random attention is even.

    All embeddings get a common part, and the rotary parts of queries and keys become one vector for all tokens with it,
    so that scores fall with the distance.
    """
    embedding = model.model.embed_tokens.weight
    embedding.add_(embedding.square().mean().sqrt() * 2)

    def align(mixer: torch.nn.Module, arguments: tuple[torch.Tensor, SequenceContext]) -> None:
        assert isinstance(mixer, MultiHeadLatentAttention)
        x_D = arguments[0].mean((0, 1))
        latent_C = (mixer.q_a_layernorm(mixer.q_a_proj(arguments[0])) * mixer.query_scale).mean((0, 1))
        to_key = x_D / x_D.square().sum()
        to_query = latent_C / latent_C.square().sum()
        size = math.sqrt(strength / mixer.softmax_scale)
        mixer.kv_a_proj_with_mqa.weight[mixer.latent_width :] = size * to_key
        rows_HWC = mixer.q_b_proj.weight.view(mixer.heads, mixer.nope_width + mixer.rope_width, -1)
        rows_HWC[:, mixer.nope_width :] = size * to_query

    handles = [
        module.register_forward_pre_hook(align)
        for module in model.modules()
        if isinstance(module, MultiHeadLatentAttention)
    ]
    model(ids_BT)
    for handle in handles:
        handle.remove()
