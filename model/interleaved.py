"""The layer without a shortcut: dense and mixture blocks take turns (LongCat-Flash report, section 2.2, the baseline).

    a = h + MLA_0(norm(h));  b = a + FFN(norm(a))
    c = b + MLA_1(norm(b));  out = c + MoE(norm(c))

The report names this topology and no details. One dense network takes the place of the shortcut layer's two; with twice
the `ffn_hidden_size` the two kinds of layer have the same number of parameters and do the same work.

Names: B batch, T tokens, D hidden, P rotary pairs, E experts of both kinds.
"""

import torch
from torch import nn

from longcat.model.attention import build_attention
from longcat.model.cache import LatentCache
from longcat.model.config import ModelConfig
from longcat.model.ffn import FeedForward
from longcat.model.moe import LayerRouting, MixtureOfExperts
from longcat.model.norm import RMSNorm


class InterleavedLayer(nn.Module):
    """Attention, a dense network, attention, a mixture of experts, one after another."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = nn.ModuleList(build_attention(config, 2 * index + i) for i in range(2))
        self.mlps = nn.ModuleList([FeedForward(width, config.ffn_hidden_size)])
        self.mlp = MixtureOfExperts(config)
        self.input_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))
        self.post_attention_layernorm = nn.ModuleList(RMSNorm(width, eps) for _ in range(2))

    def forward(
        self,
        h_BTD: torch.Tensor,
        angles_TP: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: LatentCache | None = None,
        previous_TE: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, LayerRouting]:
        """As `ShortcutLayer.forward`."""
        a_BTD = h_BTD + self.self_attn[0](self.input_layernorm[0](h_BTD), angles_TP, cu_seqlens, cache)
        b_BTD = a_BTD + self.mlps[0](self.post_attention_layernorm[0](a_BTD))
        c_BTD = b_BTD + self.self_attn[1](self.input_layernorm[1](b_BTD), angles_TP, cu_seqlens, cache)
        y_BTD, routing = self.mlp(self.post_attention_layernorm[1](c_BTD), previous_TE)
        return c_BTD + y_BTD, routing
