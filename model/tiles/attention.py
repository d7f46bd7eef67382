"""Latent attention of a tile: projections of all rows together, attention of each query by itself.

Names: B = 1, T rows of the tile, Y tokens among them, H heads, C latent width, R rotary width, N width without
position, V value width, E = C + R.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from longcat.kernels.mla_paged_decode.each_query import attend_each
from longcat.model.attention.base import MixerOutput, SequenceContext, SequenceMixer
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.pages import PageState, StepState
from longcat.model.errors import ModelError


class TileAttention(MultiHeadLatentAttention):
    """Mixed into a kind of latent attention by `tile_attention`, which keeps its parameters and projections.

    The tokens are the first rows; the others are not cached and get zeros.
    """

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        assert isinstance(state, PageState)  # noqa: S101  made for `state_kind`
        projected = self.project(x_BTD, where)
        queries = layout.queries
        tokens = len(queries.lengths)
        joint_TE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)[0]
        state.store(layout, joint_TE[:tokens])
        w_key_HNC, w_value_HVC = self.absorbed_weights()
        q_HTC = torch.bmm(projected.q_nope_BTHN[0].transpose(0, 1), w_key_HNC)
        q_THE = torch.cat((q_HTC.transpose(0, 1), projected.q_rope_BTHR[0]), dim=-1)
        o_YHC = attend_each(q_THE[:tokens], state.pages_PLW, queries, self.latent_width, self.softmax_scale)
        o_THC = F.pad(o_YHC, (0, 0, 0, 0, 0, x_BTD.shape[1] - tokens))
        o_HTV = torch.bmm(o_THC.transpose(0, 1), w_value_HVC.mT)
        return MixerOutput(self.o_proj(o_HTV.transpose(0, 1).flatten(1).unsqueeze(0)))


def tile_attention(mixer: SequenceMixer) -> nn.Module:
    """`mixer` for tiles, with the same parameters.

    Raises:
        ModelError: the kind is not plain latent attention.
    """
    if not isinstance(mixer, MultiHeadLatentAttention) or mixer.kind != MultiHeadLatentAttention.kind:
        raise ModelError(f"attention {mixer.kind!r} has no form for tiles, only 'mla' has")
    kind: Any = type(f"Tile{type(mixer).__name__}", (TileAttention, type(mixer)), {})
    tile: nn.Module = kind.__new__(kind)
    tile.__dict__.update(mixer.__dict__)
    return tile
