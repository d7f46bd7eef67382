"""Layer without a shortcut: dense and mixture blocks alternate (LongCat-Flash report, section 2.2, the baseline).

    a = h + MLA_0(norm(h));  b = a + FFN(norm(a))
    c = b + MLA_1(norm(b));  out = c + MoE(norm(c))

The report names this topology without details. One dense network replaces the shortcut layer's two; with twice the
`ffn_hidden_size` the two layer kinds have equal parameters and FLOPs.

Names: B batch, T tokens, D hidden, E experts of both kinds.
"""

from typing import ClassVar

import torch

from longcat.model.attention.base import SequenceContext
from longcat.model.layers.base import NO_STATES, LayerOutput, States, joined_losses
from longcat.model.layers.pre_norm import PreNormLayer


class InterleavedLayer(PreNormLayer):
    """Attention, dense network, attention, mixture of experts, in sequence."""

    dense_networks: ClassVar[int] = 1

    def forward(
        self,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        previous_TE: torch.Tensor | None = None,
        states: States = NO_STATES,
    ) -> LayerOutput:
        first = self.self_attn[0](self.input_layernorm[0](h_BTD), where, states[0])
        a_BTD = h_BTD + first.y_BTD
        b_BTD = a_BTD + self.mlps[0](self.post_attention_layernorm[0](a_BTD))
        second = self.self_attn[1](self.input_layernorm[1](b_BTD), where.after(first), states[1])
        c_BTD = b_BTD + second.y_BTD
        y_BTD, routing = self.mlp(self.post_attention_layernorm[1](c_BTD), previous_TE)
        return LayerOutput(c_BTD + y_BTD, routing, joined_losses(first, second))
