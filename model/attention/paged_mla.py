"""Latent attention of a step over many sequences, whose cached positions are in pages.

Pieces with few tokens absorb the projections: all their queries in one batched product, then the cached latents of each
sequence once. Pieces with many tokens read the latents of their sequence and expand them.

Names: T tokens of the step, Y tokens of pieces that absorb, S positions of a sequence, H heads, C latent width,
R rotary width, N width without position, V value width, E = C + R.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from longcat.kernels.mla_paged_decode import mla_paged_decode
from longcat.kernels.mla_project import Projected
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.pages import Group, PageState, Span


class LatentMixer(Protocol):
    """What a step needs of latent attention (`model.attention.mla`)."""

    heads: int
    latent_width: int
    rope_width: int
    value_width: int
    softmax_scale: float

    @property
    def absorption(self) -> tuple[int, ...]:
        """What `absorbs` depends on, besides the piece."""

    def absorbs(self, span: Span) -> bool:
        """Whether a piece of a step absorbs the projections."""

    def absorbed_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices of keys [H, N, C] and values [H, V, C]."""

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        """Attention output [B, T, H, V] of the last T of S positions."""


# Attention output [1, T, H, V] of a piece, by its place in the step, from its projections and its positions [S, E].
AttendPiece = Callable[[int, Projected, torch.Tensor], torch.Tensor]


def attend_in_pages(
    mixer: LatentMixer,
    projected: Projected,
    where: SequenceContext,
    state: PageState,
    limit: int | None = None,
    beyond: AttendPiece | None = None,
) -> torch.Tensor:
    """Attention output [1, T, H, V] of the tokens of a step; their latents and rotary keys are cached.

    Pieces of sequences with more than `limit` positions, which the mixer does not absorb, are left to `beyond`.
    """
    layout = where.layout
    assert layout is not None  # noqa: S101  a step has one
    joint_1TE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)
    state.store(layout, joint_1TE[0])
    division = layout.divided(mixer.absorption, mixer.absorbs)
    q_nope_THN, q_rope_THR = projected.q_nope_BTHN[0], projected.q_rope_BTHR[0]
    if division.tokens_Y is None:
        return attend_absorbed(mixer, q_nope_THN, q_rope_THR, division.groups, state).unsqueeze(0)
    o_THV = q_nope_THN.new_empty(*q_nope_THN.shape[:2], mixer.value_width)
    if division.groups:
        q_nope_YHN, q_rope_YHR = (x.index_select(0, division.tokens_Y) for x in (q_nope_THN, q_rope_THR))
        o_THV[division.tokens_Y] = attend_absorbed(mixer, q_nope_YHN, q_rope_YHR, division.groups, state)
    for index in division.others:
        span = layout.spans[index]
        joint_SE = joint_1TE[0, span.first : span.end] if span.start == 0 else state.read(layout, index)
        if beyond is not None and limit is not None and span.length > limit:
            own = Projected(*(x[:, span.first : span.end] for x in projected))
            o_THV[span.first : span.end] = beyond(index, own, joint_SE)[0]
        else:
            o_THV[span.first : span.end] = attend_expanded(mixer, projected, joint_SE, span, where)
    return o_THV.unsqueeze(0)


def attend_absorbed(
    mixer: LatentMixer,
    q_nope_YHN: torch.Tensor,
    q_rope_YHR: torch.Tensor,
    groups: tuple[Group, ...],
    state: PageState,
) -> torch.Tensor:
    """Output [Y, H, V] of tokens in the order of the groups, whose latents are in the pages of the groups."""
    q_YHE = absorbed_queries(mixer, q_nope_YHN, q_rope_YHR)
    outputs = []
    for q_GHE, (tokens, sequences) in zip(_of_groups(q_YHE, groups), groups, strict=True):
        q_BTHE = q_GHE.view(-1, tokens, *q_YHE.shape[1:])
        o_BTHC = mla_paged_decode(q_BTHE, state.pages_PLW, sequences, None, mixer.latent_width, mixer.softmax_scale)
        outputs.append(o_BTHC.flatten(0, 1))
    return expanded_outputs(mixer, outputs[0] if len(outputs) == 1 else torch.cat(outputs))


def absorbed_queries(mixer: LatentMixer, q_nope_YHN: torch.Tensor, q_rope_YHR: torch.Tensor) -> torch.Tensor:
    """Queries [Y, H, E] of cached positions."""
    q_HYC = torch.bmm(q_nope_YHN.transpose(0, 1), mixer.absorbed_weights()[0])
    return torch.cat((q_HYC.transpose(0, 1), q_rope_YHR), dim=-1)


def expanded_outputs(mixer: LatentMixer, o_YHC: torch.Tensor) -> torch.Tensor:
    """Attention output [Y, H, V] of sums of latents."""
    w_value_HVC = mixer.absorbed_weights()[1]
    if o_YHC.shape[0] == 1:  # with the matrices on the left, no copy is needed
        return torch.bmm(w_value_HVC, o_YHC.permute(1, 2, 0)).view(1, mixer.heads, mixer.value_width)
    return torch.bmm(o_YHC.transpose(0, 1), w_value_HVC.mT).transpose(0, 1)


def _of_groups(q_YHE: torch.Tensor, groups: tuple[Group, ...]) -> Sequence[torch.Tensor]:
    """Queries of the tokens of every group."""
    return q_YHE.split([group.tokens * len(group.sequences.lengths) for group in groups])


def attend_expanded(
    mixer: LatentMixer,
    projected: Projected,
    joint_SE: torch.Tensor,
    span: Span,
    where: SequenceContext,
) -> torch.Tensor:
    """Output [T, H, V] of the tokens of a piece, the last of the positions of `joint_SE`."""
    latent_1SC, k_rope_1SR = joint_SE.unsqueeze(0).split((mixer.latent_width, mixer.rope_width), dim=-1)
    q_nope_1THN, q_rope_1THR = (x[:, span.first : span.end] for x in (projected.q_nope_BTHN, projected.q_rope_BTHR))
    return mixer.attend(q_nope_1THN, q_rope_1THR, latent_1SC, k_rope_1SR, where)[0]
