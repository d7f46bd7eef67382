"""Kinds of attention that exist only in the tests: a sliding window on latents, and a gated linear mixer.

They show what a variant needs: one module that implements the interface (`model.attention.base`), a line in
`model.mixers.KINDS`, added by `test_variants.py`, and a row of its table.

Names: B batch, T tokens, S positions, D hidden, H heads, C latent width, R rotary width.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field

from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.base import (
    MixerOutput,
    SequenceContext,
    SequenceMixer,
)
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.pages import PerSequence, SlotState, StepState
from longcat.model.config import ModelConfig
from longcat.model.linear import Linear
from longcat.model.parameter_kinds import Kind
from longcat.model.parameters import unset_parameter


class WindowOptions(MixerOptions):
    size: int = Field(default=4, ge=1, description="positions that a token sees, including itself")


class WindowAttention(MultiHeadLatentAttention):
    """Latent attention in which a token sees the last `size` positions."""

    kind: ClassVar[str] = "test_window"
    Options = WindowOptions

    def __init__(self, config: ModelConfig, slot: int, options: WindowOptions) -> None:
        super().__init__(config, slot, options)
        self.size = options.size

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        seen = q_nope_BTHN.shape[1] + self.size - 1
        k_BSHQ, v_BSHV = self.expand(latent_BSC[:, -seen:], k_rope_BSR[:, -seen:])
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
        (batch, tokens), positions = q_BTHQ.shape[:2], k_BSHQ.shape[1]
        i_T1 = torch.arange(positions - tokens, positions).unsqueeze(1)
        j_S = torch.arange(positions)
        seen_BTS = ((j_S <= i_T1) & (j_S > i_T1 - self.size)).expand(batch, -1, -1)
        if where.cu_seqlens is not None:
            document_BS = torch.searchsorted(where.cu_seqlens, torch.arange(batch * tokens), right=True).view(batch, -1)
            seen_BTS = seen_BTS & (document_BS.unsqueeze(2) == document_BS.unsqueeze(1))
        heads = (x.transpose(1, 2) for x in (q_BTHQ, k_BSHQ, v_BSHV))
        o_BHTV = F.scaled_dot_product_attention(*heads, attn_mask=seen_BTS.unsqueeze(1), scale=self.softmax_scale)
        return o_BHTV.transpose(1, 2)

    def flops(self, tokens: int, cached: int) -> int:
        pairs = sum(min(cached + token + 1, self.size) for token in range(tokens))
        held = min(cached, self.size - 1)
        return 2 * pairs * self.expanded_values() + 2 * held * self._expansion()


class LinearOptions(MixerOptions):
    weight: float = Field(default=0.1, ge=0, description="weight of the loss that keeps the state small")


class LinearMixer(SequenceMixer):
    """y_t = q_t * s_t,  s_t = exp(-exp(A_log)) * s_{t-1} + k_t * v_t, per channel; no angles and no keys."""

    kind: ClassVar[str] = "test_linear"
    Options = LinearOptions
    loss_names: ClassVar[tuple[str, ...]] = ("state_loss",)

    def __init__(self, config: ModelConfig, slot: int, options: LinearOptions) -> None:
        super().__init__(config, slot, options)
        width = config.hidden_size
        self.width, self.weight = width, options.weight
        self.q_proj, self.k_proj = Linear(width, width), Linear(width, width)
        self.v_proj, self.o_proj = Linear(width, width), Linear(width, width)
        self.A_log = unset_parameter(width)

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        q_BTD, k_BTD, v_BTD = self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)
        if isinstance(state, SlotState):
            s_BTD = self.scan_pieces(k_BTD, v_BTD, where, state)
            return MixerOutput(self.o_proj(q_BTD * s_BTD))
        s_BTD = self.scan(k_BTD, v_BTD, torch.zeros_like(x_BTD[:, 0]), _starts(where.cu_seqlens, x_BTD))
        loss = self.weight * s_BTD.to(accumulation_dtype(s_BTD.dtype)).square().mean(dim=-1).sum()
        return MixerOutput(self.o_proj(q_BTD * s_BTD), {"state_loss": loss})

    def scan_pieces(
        self, k_1TD: torch.Tensor, v_1TD: torch.Tensor, where: SequenceContext, state: SlotState
    ) -> torch.Tensor:
        """States after every token of a step; every piece begins with the state of its slot."""
        assert where.layout is not None
        pieces = []
        for span in where.layout.spans:
            within = slice(span.first, span.end)
            starts_1T = torch.zeros(1, span.tokens, dtype=torch.bool)
            pieces.append(self.scan(k_1TD[:, within], v_1TD[:, within], state.read(span).unsqueeze(0), starts_1T))
            state.write(span, pieces[-1][0, -1])
        return torch.cat(pieces, dim=1)

    def scan(
        self, k_BTD: torch.Tensor, v_BTD: torch.Tensor, s_BD: torch.Tensor, starts_BT: torch.Tensor
    ) -> torch.Tensor:
        """States after every token; a document starts with an empty state."""
        decay_D = torch.exp(-self.A_log.exp()).to(k_BTD.dtype)
        states = []
        for token in range(k_BTD.shape[1]):
            s_BD = s_BD.masked_fill(starts_BT[:, token, None], 0)
            s_BD = decay_D * s_BD + k_BTD[:, token] * v_BTD[:, token]
            states.append(s_BD)
        return torch.stack(states, dim=1)

    def state_kind(self) -> PerSequence:
        return PerSequence((self.width,))

    def flops(self, tokens: int, cached: int) -> int:
        return 4 * tokens * self.width

    def state_values(self, length: int) -> int:
        return self.width

    @classmethod
    def initial_value(
        cls, name: str, shape: tuple[int, ...], std: float, stream: np.random.Generator
    ) -> torch.Tensor | None:
        if name != "A_log":
            return None
        return torch.from_numpy(np.log(stream.uniform(1, 16, shape))).float()

    @classmethod
    def parameter_kind(cls, name: str, dimensions: int) -> Kind | None:
        return "hidden" if name == "q_proj.weight" else None


def _starts(cu_seqlens: torch.Tensor | None, x_BTD: torch.Tensor) -> torch.Tensor:
    """Mask of tokens that start a document within a row, bool [B, T]."""
    batch, tokens = x_BTD.shape[:2]
    starts_X = torch.zeros(batch * tokens, dtype=torch.bool)
    if cu_seqlens is not None:
        starts_X[cu_seqlens[:-1].long()] = True
    return starts_X.view(batch, tokens)
