"""Multi-token prediction: an additional layer that predicts the token after the next (LongCat-Flash report, section
2.4).

    z      = W_eh [norm(embed(token_{t+1})) | norm(h_t)]       the embedding first, then the model's hidden state
    r      = z + MLA(norm(z));  r = r + FFN(norm(r))            a dense layer: no experts, no shortcut
    logits = W_out norm(r)                                      of token t + 2, by the model's own output projection

h_t is the model's hidden state *after* its final norm, as engines pass it to this layer at inference. Tensors have
their published names in memory too, hence the two ModuleDicts with one entry.

Names: B batch, T tokens, D hidden, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import nn

from longcat.kernels.cross_entropy import IGNORE_INDEX
from longcat.model.attention.base import MixerOutput, SequenceContext
from longcat.model.attention.build import build_attention
from longcat.model.attention.pages import StepState
from longcat.model.config import ModelConfig
from longcat.model.embeddings.token import TokenEmbedding
from longcat.model.ffn import FeedForward
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm


class MTPOutput(NamedTuple):
    """logits: float32 [B, T, V] of the token after the next. hidden_BTD: input for a further prediction.

    To predict further, pass `hidden_BTD` and the predicted tokens to `LongcatFlash.mtp_forward` again.
    """

    logits: torch.Tensor
    hidden_BTD: torch.Tensor


class MTPLayer(nn.Module):
    """Combines the next token's embedding with the hidden state, then applies attention and a dense network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.enorm = nn.ModuleDict({"m": RMSNorm(width, eps)})
        self.hnorm = nn.ModuleDict({"m": RMSNorm(width, eps)})
        self.eh_proj = Linear(2 * width, width)
        self.input_layernorm = RMSNorm(width, eps)
        self.self_attn = build_attention(config, config.mtp_slot)
        self.post_attention_layernorm = RMSNorm(width, eps)
        self.transformer_layer = nn.ModuleDict({"mlp": FeedForward(width, config.ffn_hidden_size)})

    def forward(
        self,
        e_BTD: torch.Tensor,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        state: StepState | None = None,
    ) -> MixerOutput:
        """`e_BTD` are the embeddings of the next tokens, `h_BTD` the hidden states of these."""
        z_BTD = self.eh_proj(torch.cat((self.enorm["m"](e_BTD), self.hnorm["m"](h_BTD)), dim=-1))
        mixed: MixerOutput = self.self_attn(self.input_layernorm(z_BTD), where, state)
        r_BTD = z_BTD + mixed.y_BTD
        return MixerOutput(r_BTD + self.transformer_layer["mlp"](self.post_attention_layernorm(r_BTD)), mixed.losses)


class MultiTokenPrediction(nn.Module):
    """The layer, its final norm and, unless the model's is shared, its own embedding table (as published)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        shared = config.mtp_share_embeddings
        self.embed_tokens = None if shared else TokenEmbedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(MTPLayer(config) for _ in range(config.num_nextn_predict_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        e_BTD: torch.Tensor,
        h_BTD: torch.Tensor,
        where: SequenceContext,
        state: StepState | None = None,
    ) -> MixerOutput:
        """Normed hidden states for predicting the tokens after the next, and the losses of the mixer."""
        output: MixerOutput = self.layers[0](e_BTD, h_BTD, where, state)
        return output._replace(y_BTD=self.norm(output.y_BTD))


def targets_after_next(targets_BT: torch.Tensor, cu_seqlens: torch.Tensor | None = None) -> torch.Tensor:
    """Targets of this layer: the model's targets shifted by one token, within documents.

    The last position of a row has no target, nor do the last two positions of a document that ends within a row: their
    next token or the one after it is in another document.
    """
    length = targets_BT.shape[1]
    further_BT = torch.full_like(targets_BT, IGNORE_INDEX)
    further_BT[:, :-1] = targets_BT[:, 1:]
    if cu_seqlens is not None:
        ends = cu_seqlens[cu_seqlens % length != 0].long()
        # An end at 1 has no second position before it.
        further_BT.view(-1).index_fill_(
            0, torch.cat((ends - 1, (ends - 2).clamp(min=0))).to(further_BT.device), IGNORE_INDEX
        )
    return further_BT
