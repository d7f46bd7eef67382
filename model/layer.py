"""The shortcut-connected layer (LongCat-Flash report, section 2.2 and figure 2).

    a = h + MLA_0(norm(h));  y = norm(a)
    s = MoE(y)                                  the shortcut, added at the very end
    b = a + FFN_0(y);  c = b + MLA_1(norm(b));  d = c + FFN_1(norm(c))
    out = d + s

The mixture and everything between `a` and `d` depend on nothing of each other: its tokens travel to their experts
behind the first dense network and the second attention, and back behind the second dense network.

Names: B batch, T tokens, D hidden, P rotary pairs, E experts of both kinds.
"""

import torch
from torch import nn

from longcat.model.attention import build_attention
from longcat.model.cache import LatentCache
from longcat.model.config import ModelConfig
from longcat.model.ffn import FeedForward
from longcat.model.interleaved import InterleavedLayer
from longcat.model.moe import LayerRouting, MixtureOfExperts
from longcat.model.norm import RMSNorm


class ShortcutLayer(nn.Module):
    """Two attention modules, two dense networks and one mixture of experts beside them."""

    def __init__(self, config: ModelConfig, index: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = nn.ModuleList(build_attention(config, 2 * index + i) for i in range(2))
        self.mlps = nn.ModuleList(FeedForward(width, config.ffn_hidden_size) for _ in range(2))
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
        """Returns (out_BTD, routing); `previous_TE` are the router logits of the layer before."""
        a_BTD = h_BTD + self.self_attn[0](self.input_layernorm[0](h_BTD), angles_TP, cu_seqlens, cache)
        y_BTD = self.post_attention_layernorm[0](a_BTD)
        mixture = self.mlp.dispatch(y_BTD, previous_TE)
        b_BTD = a_BTD + self.mlps[0](y_BTD)
        c_BTD = b_BTD + self.self_attn[1](self.input_layernorm[1](b_BTD), angles_TP, cu_seqlens, cache)
        mixture = self.mlp.compute(mixture)
        d_BTD = c_BTD + self.mlps[1](self.post_attention_layernorm[1](c_BTD))
        return d_BTD + self.mlp.combine(mixture), mixture.routing


Layer = ShortcutLayer | InterleavedLayer
LAYOUTS: dict[str, type[Layer]] = {"shortcut": ShortcutLayer, "interleaved": InterleavedLayer}


def build_layer(config: ModelConfig, index: int) -> Layer:
    """Layer `index` of the kind that `moe_layout` names."""
    return LAYOUTS[config.moe_layout](config, index)
