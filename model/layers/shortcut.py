"""Shortcut-connected layer (LongCat-Flash report, section 2.2 and figure 2).

    a = h + MLA_0(norm(h));  y = norm(a)
    s = MoE(y)                                  the shortcut, added at the end
    b = a + FFN_0(y);  c = b + MLA_1(norm(b));  d = c + FFN_1(norm(c))
    out = d + s

The mixture and the computation between `a` and `d` are independent: its dispatch overlaps with the first dense network
and the second attention, its combine with the second dense network.

Names: B batch, T tokens, D hidden, E experts of both kinds.
"""

from typing import ClassVar

import torch

from longcat.model.attention.base import SequenceContext
from longcat.model.layers.base import NO_STATES, LayerOutput, States, joined_losses
from longcat.model.layers.pre_norm import PreNormLayer


class ShortcutLayer(PreNormLayer):
    """Two attention modules and two dense networks, with one parallel mixture of experts."""

    dense_networks: ClassVar[int] = 2

    def forward(
        self,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        previous_TE: torch.Tensor | None = None,
        states: States = NO_STATES,
    ) -> LayerOutput:
        first = self.self_attn[0](self.input_layernorm[0](h_BTD), where, states[0])
        a_BTD = h_BTD + first.y_BTD
        y_BTD = self.post_attention_layernorm[0](a_BTD)
        mixture = self.mlp.dispatch(y_BTD, previous_TE)
        b_BTD = a_BTD + self.mlps[0](y_BTD)
        second = self.self_attn[1](self.input_layernorm[1](b_BTD), where.after(first), states[1])
        c_BTD = b_BTD + second.y_BTD
        mixture = self.mlp.compute(mixture)
        d_BTD = c_BTD + self.mlps[1](self.post_attention_layernorm[1](c_BTD))
        return LayerOutput(d_BTD + self.mlp.combine(mixture), mixture.routing, joined_losses(first, second))
