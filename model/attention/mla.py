"""Multi-head latent attention with variance alignment (LongCat-Flash report, section 2.3.1, eq. 6 and 7).

    cQ        = alpha_q  * RMSNorm(W_DQ h)         q = W_UQ cQ,  per head: [without position | rotary]
              (without a query latent, `q_lora_rank: null`: q = W_Q h)
    [cKV|kR]  = W_DKV h
    cKV       = alpha_kv * RMSNorm(cKV)            [k | v] = W_UKV cKV;  kR is shared by all heads and not scaled

with alpha_x = sqrt(hidden_size / rank_x). Pages hold the scaled cKV and the rotated kR.

Names: B batch, T tokens, S cached positions, D hidden, H heads, C latent width, R rotary width, N width without
position, V value width, P = R / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from longcat.kernels.mla_attention import Window, mla_attention
from longcat.kernels.mla_project import Projected, Projections, mla_project
from longcat.model.attention.base import MixerOutput, SequenceContext, SequenceMixer
from longcat.model.attention.offload.state import OffloadState
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.paged_mla import attend_in_pages
from longcat.model.attention.pages import PageState, PerPosition, Span, StateKind, StepState
from longcat.model.attention.rescaling import Exchange, Part, groups
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig

# The published models use this epsilon for latents, not rms_norm_eps.
LATENT_NORM_EPS = 1e-6


class MultiHeadLatentAttention(SequenceMixer):
    """Softmax attention on latents. A variant that attends to other positions sets `window` or overrides `attend`."""

    kind: ClassVar[str] = "mla"
    opaque: ClassVar[tuple[str, ...]] = ("attend",)
    rescales: ClassVar[bool] = True
    parts_of_rows: ClassVar[str] = "longcat.model.attention.shared_context:SharedContextAttention"

    def __init__(self, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        super().__init__(config, slot, options)
        self.heads = config.num_attention_heads
        self.nope_width, self.rope_width = config.qk_nope_head_dim, config.qk_rope_head_dim
        self.latent_width, self.value_width = config.kv_lora_rank, config.v_head_dim
        self._widths = (self.latent_width, self.nope_width, self.rope_width, self.value_width)
        self.softmax_scale = config.qk_head_dim**-0.5
        if config.rope_scaling is not None:
            self.softmax_scale *= config.rope_scaling.logit_scale
        self.latent_scale = (config.hidden_size / config.kv_lora_rank) ** 0.5 if config.mla_scale_kv_lora else 1.0

        self.window: Window | None = None
        self._build_queries(config)
        self.kv_a_proj_with_mqa = Linear(config.hidden_size, self.latent_width + self.rope_width)
        self.kv_a_layernorm = RMSNorm(self.latent_width, LATENT_NORM_EPS)
        self.kv_b_proj = Linear(self.latent_width, self.heads * (self.nope_width + self.value_width))
        self.o_proj = Linear(self.heads * self.value_width, config.hidden_size)
        # Absorbed products see all positions; a subclass with its own `attend` may see others.
        self._sees_all = type(self).attend is MultiHeadLatentAttention.attend
        # Whether every piece of a step absorbs the projections, so that the products of a token do not depend on how
        # its text is divided into pieces. Long prompts then cost more.
        self.absorbs_always = False

    def _build_queries(self, config: ModelConfig) -> None:
        query_width, rank = self.heads * config.qk_head_dim, config.q_lora_rank
        self.has_query_latent, self.query_scale = rank is not None, 1.0
        self.queries = "q_b_proj" if self.has_query_latent else "q_proj"  # module that gives those of all heads
        if rank is None:
            self.q_proj = Linear(config.hidden_size, query_width)
            return
        if config.mla_scale_q_lora:
            self.query_scale = (config.hidden_size / rank) ** 0.5
        self.q_a_proj = Linear(config.hidden_size, rank)
        self.q_a_layernorm = RMSNorm(rank, LATENT_NORM_EPS)
        self.q_b_proj = Linear(rank, query_width)

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        if isinstance(state, OffloadState):
            o_BTHV = state.attend(self, x_BTD, where)
        elif isinstance(state, PageState):
            o_BTHV = self.attend_in_step(x_BTD, where, state)
        else:
            o_BTHV = self.attend(*self.project(x_BTD, where), where)
        return MixerOutput(self.o_proj(o_BTHV.flatten(2)))

    def attend_in_step(self, x_1TD: torch.Tensor, where: SequenceContext, state: PageState) -> torch.Tensor:
        """Attention output [1, T, H, V] of the tokens of a step, which are cached."""
        return attend_in_pages(self, self.project(x_1TD, where), where, state)

    def project(self, x_BTD: torch.Tensor, where: SequenceContext) -> Projected:
        """Queries [B, T, H, N] and their rotary part [B, T, H, R], latents [B, T, C] and rotary keys [B, T, R]."""
        return mla_project(x_BTD, where.angles[self.rope_width], self._projections())

    def attend(
        self,
        q_nope_BTHN: torch.Tensor,
        q_rope_BTHR: torch.Tensor,
        latent_BSC: torch.Tensor,
        k_rope_BSR: torch.Tensor,
        where: SequenceContext,
    ) -> torch.Tensor:
        """Attention output of the last T of S positions [B, T, H, V]; in a step, those of one sequence."""
        k_BSHQ, v_BSHV = self.expand(latent_BSC, k_rope_BSR)
        q_BTHQ = torch.cat((q_nope_BTHN, q_rope_BTHR), dim=-1)
        return mla_attention(q_BTHQ, k_BSHQ, v_BSHV, self.softmax_scale, where.documents, self.window)

    def exchanges(self) -> tuple[Exchange, ...]:
        """Heads of queries without position against keys, and of values against the output; rotary queries of all heads
        against the rotary key that they share, which no norm follows. Rotations and `mla_scale_*` are linear.
        """
        nope, rope, value, heads = self.nope_width, self.rope_width, self.value_width, self.heads
        query, expanded = (f"{self.queries}.weight", nope + rope), ("kv_b_proj.weight", nope + value)
        rotary_key = torch.arange(self.latent_width, self.latent_width + rope).unsqueeze(0)

        def rows(of: tuple[str, int], start: int, size: int) -> Part:
            return Part(of[0], 0, groups(heads, of[1], start, size))

        rotary = Exchange("qk", rows(query, nope, rope), Part("kv_a_proj_with_mqa.weight", 0, rotary_key)).together()
        output = Part("o_proj.weight", 1, groups(heads, value, 0, value))
        return (
            Exchange("qk", rows(query, 0, nope), rows(expanded, 0, nope)),
            rotary,
            Exchange("vo", rows(expanded, nope, value), output),
        )

    @classmethod
    def head_rows(cls, config: ModelConfig, name: str) -> tuple[int, ...] | None:
        return {
            "q_b_proj.weight": (config.qk_head_dim,),
            "kv_b_proj.weight": (config.qk_nope_head_dim, config.v_head_dim),
        }.get(name)

    def state_kind(self) -> StateKind:
        return PerPosition(self.latent_width + self.rope_width)

    @property
    def offloads(self) -> bool:
        return self.kind == MultiHeadLatentAttention.kind  # others attend to chosen positions themselves

    def flops(self, tokens: int, cached: int) -> int:
        pairs = tokens * (2 * cached + tokens + 1) // 2
        expanded = 2 * pairs * self.expanded_values()
        if not cached:
            return expanded
        # Absorption multiplies by the same matrices as expanding the new tokens.
        return min(2 * pairs * self._absorbed_width(), expanded + 2 * cached * self._expansion())

    def state_values(self, length: int) -> int:
        return length * (self.latent_width + self.rope_width)

    def expanded_values(self) -> int:
        return self.heads * (self.nope_width + self.rope_width + self.value_width)

    @property
    def rotary_width(self) -> int:
        return self.rope_width

    def _projections(self) -> Projections:
        return Projections(
            self.q_a_proj.weight if self.has_query_latent else None,
            self.q_a_layernorm.weight if self.has_query_latent else None,
            getattr(self, self.queries).weight,
            self.kv_a_proj_with_mqa.weight,
            self.kv_a_layernorm.weight,
            self.heads,
            self.query_scale,
            self.latent_scale,
            LATENT_NORM_EPS,
        )

    def expand(self, latent_BSC: torch.Tensor, k_rope_BSR: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys [B, S, H, Q] and values [B, S, H, V] of every head."""
        kv_BSHX = self.kv_b_proj(latent_BSC).unflatten(-1, (self.heads, -1))
        k_nope_BSHN, v_BSHV = kv_BSHX.split((self.nope_width, self.value_width), dim=-1)
        k_BSHQ = torch.cat((k_nope_BSHN, k_rope_BSR.unsqueeze(2).expand(-1, -1, self.heads, -1)), dim=-1)
        return k_BSHQ, v_BSHV

    def absorbed_weights(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Matrices of every head from latents to keys [H, N, C] and to values [H, V, C]."""
        w_HXC = self.kv_b_proj.weight.view(self.heads, -1, self.latent_width)
        return w_HXC.narrow(1, 0, self.nope_width), w_HXC.narrow(1, self.nope_width, self.value_width)

    def absorbs(self, span: Span) -> bool:
        """Whether a piece of a step absorbs the projections."""
        return self._sees_all and (self.absorbs_always or self._absorbing_is_cheaper(span.tokens, span.length))

    @property
    def absorption(self) -> tuple[int, ...]:
        """What `absorbs` depends on, besides the piece."""
        return self._sees_all, self.absorbs_always, self.heads, *self._widths

    def _absorbing_is_cheaper(self, tokens: int, positions: int) -> bool:
        """Compare multiplication counts: expanding every cached position, or projecting the new queries."""
        expand = positions * self._expansion() + tokens * positions * self.expanded_values()
        absorb = tokens * self._expansion() + tokens * positions * self._absorbed_width()
        return absorb < expand

    def _expansion(self) -> int:
        """Multiplications to expand one position, or to absorb the projections into one query, for all heads."""
        return self.heads * self.latent_width * (self.nope_width + self.value_width)

    def _absorbed_width(self) -> int:
        """Multiplications of one query and one cached latent, for all heads."""
        return self.heads * (2 * self.latent_width + self.rope_width)
