"""Shortcut-connected layer whose residual spans each pair of attention and feed-forward network (SpanNorm, 2026).

SpanNorm (arXiv 2601.22580) normalises sums, like PostNorm, but the residual of a block crosses one norm, not two:

    y = norm(x + Attention(x));  out = norm(x + FFN(y))        PostNorm: out = norm(y + FFN(y))

The input of the first attention has a norm of its own (not its residual), and no norm follows the last block. Here each
of the two pairs of a layer is such a block, and the mixture keeps its place (LongCat-Flash report, figure 2):

    y_0 = norm(x + MLA_0(x));  s = MoE(y_0)                    the shortcut, added at the end
    h   = norm(x + FFN_0(y_0))
    y_1 = norm(h + MLA_1(h));  out = norm(h + FFN_1(y_1) + s)

The paper's text is not public in full: the equations are those of a public implementation which cites them, the pairs
of a layer are our mapping. Its scaling rule is not known either. `span_scale` offers the factors 1 / sqrt(L) and
1 / sqrt(2 L) on initial output projections (`o_proj`, `down_proj` of dense networks and experts), where L is the number
of blocks, two per layer: if a block adds a variance of c / L, L norms attenuate the residual by exp(-c / 2) at most.

Names: B batch, T tokens, D hidden, E experts of both kinds.
"""

from typing import ClassVar

import torch
from torch import nn

from longcat.model.attention.base import SequenceContext
from longcat.model.attention.build import build_attention
from longcat.model.config import ModelConfig
from longcat.model.ffn import FeedForward
from longcat.model.layers.base import NO_STATES, Layer, LayerOutput, States, joined_losses
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.norm import RMSNorm

# Multiples of the number of blocks.
SCALES = {"L": 1, "2L": 2}
OUTPUTS = (".o_proj", ".down_proj")


class SpanLayer(Layer):
    """Two attention modules, two dense networks and a parallel mixture; norms follow sums.

    `embedding_norm` exists only in the first layer: the other layers get normed states.
    """

    final_norm: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__(config, index)
        width, eps = config.hidden_size, config.rms_norm_eps
        if index == 0:
            self.embedding_norm = RMSNorm(width, eps)
        self.self_attn = nn.ModuleList(build_attention(config, 2 * index + i) for i in range(2))
        self.mlps = nn.ModuleList(FeedForward(width, config.ffn_hidden_size) for _ in range(2))
        self.mlp = MixtureOfExperts(config)
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))
        self.post_feedforward_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))
        self._first = index == 0

    def forward(
        self,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        previous_TE: torch.Tensor | None = None,
        states: States = NO_STATES,
    ) -> LayerOutput:
        first = self.self_attn[0](self.embedding_norm(h_BTD) if self._first else h_BTD, where, states[0])
        y_BTD = self.post_attention_layernorm[0](h_BTD + first.y_BTD)
        mixture = self.mlp.dispatch(y_BTD, previous_TE)
        b_BTD = self.post_feedforward_layernorm[0](self.residual(h_BTD, y_BTD) + self.mlps[0](y_BTD))
        second = self.self_attn[1](b_BTD, where.after(first), states[1])
        y_BTD = self.post_attention_layernorm[1](b_BTD + second.y_BTD)
        mixture = self.mlp.compute(mixture)
        d_BTD = self.residual(b_BTD, y_BTD) + self.mlps[1](y_BTD) + self.mlp.combine(mixture)
        out_BTD = self.post_feedforward_layernorm[1](d_BTD)
        return LayerOutput(out_BTD, mixture.routing, joined_losses(first, second))

    @staticmethod
    def residual(x_BTD: torch.Tensor, y_BTD: torch.Tensor) -> torch.Tensor:
        """What a feed-forward network is added to: the block's input x, not the normed sum y after its attention."""
        return x_BTD

    @classmethod
    def initial_scale(cls, config: ModelConfig, name: str) -> float:
        scale = config.span_scale or "L"
        if scale == "none" or not name.removesuffix(".weight").endswith(OUTPUTS):
            return 1.0
        return float((SCALES[scale] * 2 * config.num_layers) ** -0.5)
