"""Multi-head latent attention with variance alignment (LongCat-Flash report, section 2.3.1, eq. 6 and 7).

    cQ        = alpha_q  * RMSNorm(W_DQ h)         q = W_UQ cQ,  a head: [without position | rotary]
    [cKV|kR]  = W_DKV h
    cKV       = alpha_kv * RMSNorm(cKV)            [k | v] = W_UKV cKV;  kR is shared by the heads and not scaled

with alpha_x = sqrt(hidden_size / rank_x). The cache holds cKV as it is here and kR after its rotation.

Names: B batch, T tokens, S cached positions, D hidden, H heads, C latent width, R rotary width, N width without
position, V value width, P = R / 2.
"""

import torch
from torch import nn

from longcat.kernels.mla_attention import mla_attention
from longcat.kernels.mla_decode import mla_decode
from longcat.kernels.mla_project import Projections, mla_project
from longcat.model.cache import LatentCache
from longcat.model.config import ModelConfig
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm

# The published models normalise latents with this value, not with rms_norm_eps.
LATENT_NORM_EPS = 1e-6


class MultiHeadLatentAttention(nn.Module):
    """One attention module; `slot` is its place in the cache."""

    def __init__(self, config: ModelConfig, slot: int) -> None:
        super().__init__()
        self.slot = slot
        self.heads = config.num_attention_heads
        self.nope_width, self.rope_width = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.latent_width, self.value_width = config.kv_lora_rank, config.v_head_dim
        self.softmax_scale = config.qk_head_dim**-0.5
        self.query_scale = (config.hidden_size / config.q_lora_rank) ** 0.5 if config.mla_scale_q_lora else 1.0
        self.latent_scale = (config.hidden_size / config.kv_lora_rank) ** 0.5 if config.mla_scale_kv_lora else 1.0

        self.q_a_proj = Linear(config.hidden_size, config.q_lora_rank)
        self.q_a_layernorm = RMSNorm(config.q_lora_rank, LATENT_NORM_EPS)
        self.q_b_proj = Linear(config.q_lora_rank, self.heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = Linear(config.hidden_size, self.latent_width + self.rope_width)
        self.kv_a_layernorm = RMSNorm(self.latent_width, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(self.latent_width, self.heads * (self.nope_width + self.value_width))
        self.o_proj = Linear(self.heads * self.value_width, config.hidden_size)

    def forward(
        self,
        x_BTD: torch.Tensor,
        angles_TP: torch.Tensor,
        cu_seqlens: torch.Tensor | None = None,
        cache: LatentCache | None = None,
    ) -> torch.Tensor:
        q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR = mla_project(x_BTD, angles_TP, self._projections())
        if cache is not None:
            latent_BSC, k_rope_BSR = cache.store(self.slot, latent_BSC, k_rope_BSR)
        if cache is not None and self._absorbing_is_cheaper(x_BTD.shape[1], latent_BSC.shape[1]):
            o_BTHV = self._attend_absorbed(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR)
        else:
            o_BTHV = self._attend_expanded(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, cu_seqlens)
        return self.o_proj(o_BTHV.flatten(2))

    def _projections(self) -> Projections:
        return Projections(
            self.q_a_proj.weight,
            self.q_a_layernorm.weight,
            self.q_b_proj.weight,
            self.kv_a_proj_with_mqa.weight,
            self.kv_a_layernorm.weight,
            self.heads,
            self.query_scale,
            self.latent_scale,
            LATENT_NORM_EPS,
        )

    def _attend_expanded(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        k_BSHQ, v_BSHV = self._expand(latent_BSC, k_rope_BSR)
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
        return mla_attention(q_BTHQ, k_BSHQ, v_BSHV, self.softmax_scale, cu_seqlens)

    def _expand(self, latent_BSC: torch.Tensor, k_rope_BSR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of every head."""
        kv_BSHX = self.kv_b_proj(latent_BSC).unflatten(-1, (self.heads, -1))
        k_nope_BSHN, v_BSHV = kv_BSHX.split((self.nope_width, self.value_width), dim=-1)
        k_BSHQ = torch.cat((k_nope_BSHN, k_rope_BSR.unsqueeze(2).expand(-1, -1, self.heads, -1)), dim=-1)
        return k_BSHQ, v_BSHV

    def _attend_absorbed(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
    ) -> torch.Tensor:
        w_HXC = self.kv_b_proj.weight.view(self.heads, -1, self.latent_width)
        w_key_HNC, w_value_HVC = w_HXC.split((self.nope_width, self.value_width), dim=1)
        return mla_decode(q_nope_BTHN, q_rope_BTHR, latent_BSC, k_rope_BSR, w_key_HNC, w_value_HVC, self.softmax_scale)

    def _absorbing_is_cheaper(self, tokens: int, positions: int) -> bool:
        """Compare multiplications a head: expanding every cached position, or projecting the few new queries."""
        expanded_width = self.nope_width + self.value_width
        expand = positions * self.latent_width * expanded_width
        expand += tokens * positions * (expanded_width + self.rope_width)
        absorb = tokens * self.latent_width * expanded_width
        absorb += tokens * positions * (2 * self.latent_width + self.rope_width)
        return absorb < expand
