"""Gated delta networks: linear attention whose state forgets, erases and writes by gates.

    q, k, v = silu(conv(W_q x)), silu(conv(W_k x)), silu(conv(W_v x));   q, k of unit length per head
    g       = -exp(A_log) softplus(W_f x + dt_bias);   with a lower bound l:  l sigmoid(exp(A_log) (W_f x + dt_bias))
    S_t     = (I - k_t (e_t * k_t)^T) Diag(exp(g_t)) S_{t-1} + k_t (w_t * v_t)^T
    y       = W_o (RMSNorm(S_t^T q_t / sqrt(K)) * sigmoid(W_g x))

The rules differ in their gates b = sigmoid(W_b x), c = sigmoid(W_c x), by head or by channel:

    rule        g           gates                       source
    gdn         by head     e = w = b by head           Yang et al. 2024, arXiv 2412.06464
    kda         by channel  e = w = b by head           Kimi Linear, 2510.26692
    gdn2        by channel  e = b, w = c by channel     2605.22791
    fg2         by channel  k, v at the root of b by channel, e = w = 1                 FG2-GDN, 2604.19021
    fg2_plus    by channel  k at the root of b, v at that of c, by channel, e = w = 1   FG2-GDN+, the same

Projections to channels (W_f, W_b, W_c, W_g) have low rank, the width of a value head, as W_f and W_g of KDA; the
papers of FG2-GDN leave theirs open. The short convolution has four taps.

Names: B batch, T tokens, D hidden, H heads, K key width, V value width, X channels of queries, keys and values
together, S earlier inputs of the convolution, G sequences with equally many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from longcat.kernels.delta_rule import delta_rule
from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.short_convolution import short_convolution
from longcat.model.attention.base import MixerOutput, SequenceContext, SequenceMixer
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.pages import PerSequence, SlotState, Span, StepLayout, StepState
from longcat.model.bounds import MAX_WIDTH
from longcat.model.config import ModelConfig
from longcat.model.linear import Linear
from longcat.model.norm import RMSNorm
from longcat.model.parameter_kinds import Kind
from longcat.model.parameters import unset_parameter

TAPS = 4
UNIT_EPS = 1e-6  # of the length of queries and keys


class Rule(NamedTuple):
    """Gates of a rule. writes: the write gate is its own, and not the erase gate. roots: gates scale k and v."""

    decay_by_channel: bool
    gates_by_channel: bool
    writes: bool
    roots: bool


RULES = {
    "gdn": Rule(decay_by_channel=False, gates_by_channel=False, writes=False, roots=False),
    "kda": Rule(decay_by_channel=True, gates_by_channel=False, writes=False, roots=False),
    "gdn2": Rule(decay_by_channel=True, gates_by_channel=True, writes=True, roots=False),
    "fg2": Rule(decay_by_channel=True, gates_by_channel=True, writes=False, roots=True),
    "fg2_plus": Rule(decay_by_channel=True, gates_by_channel=True, writes=True, roots=True),
}


class DeltaOptions(MixerOptions):
    rule: Literal["gdn", "kda", "gdn2", "fg2", "fg2_plus"] = Field(default="kda", description="gates of the state")
    head_dim: int = Field(default=128, ge=1, le=MAX_WIDTH, description="query and key width per head")
    value_head_dim: int | None = Field(
        default=None, ge=1, le=MAX_WIDTH, description="value width per head; null: head_dim"
    )
    lower_bound: float | None = Field(default=None, ge=-100, lt=0, description="least log decay of a token; null: none")

    @model_validator(mode="after")
    def _one_gate_fits_keys_and_values(self) -> Self:
        if self.rule == "fg2" and self.value_width != self.head_dim:
            raise ValueError(
                f"rule = 'fg2' has one gate for the channels of keys and values, so value_head_dim = "
                f"{self.value_head_dim} must equal head_dim = {self.head_dim}; use 'fg2_plus'"
            )
        return self

    @property
    def value_width(self) -> int:
        """Value width per head."""
        return self.value_head_dim or self.head_dim


class LowRank(nn.Module):
    """`y = U D x`."""

    def __init__(self, inputs: int, rank: int, outputs: int) -> None:
        super().__init__()
        self.down, self.up = Linear(inputs, rank), Linear(rank, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.up(self.down(x))
        return y


class ShortConvolution(nn.Module):
    """Weights of a convolution of every channel with its last inputs."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = unset_parameter(channels, 1, TAPS)


class Streams(NamedTuple):
    """What a token brings: inputs x of the convolution [B, T, X], log decay g [B, T, H, K or 1], and both gates
    [B, T, H, K or 1] and [B, T, H, V or 1]."""

    x_BTX: torch.Tensor
    g_BTHK: torch.Tensor
    erase_BTHK: torch.Tensor
    write_BTHV: torch.Tensor

    def tokens(self, index_T: torch.Tensor, sequences: int) -> Streams:
        """Those of some tokens of one row, as `sequences` rows."""
        return Streams._make(x[0].index_select(0, index_T).unflatten(0, (sequences, -1)) for x in self)


class GatedDelta(SequenceMixer):
    """One of the gated delta rules."""

    kind: ClassVar[str] = "delta"
    Options = DeltaOptions
    opaque: ClassVar[tuple[str, ...]] = ("mix",)
    bytes_per_value: ClassVar[int] = 4

    def __init__(self, config: ModelConfig, slot: int, options: DeltaOptions) -> None:
        super().__init__(config, slot, options)
        self.rule, self.lower_bound = RULES[options.rule], options.lower_bound
        self.heads, self.key_width, self.value_width = config.num_attention_heads, options.head_dim, options.value_width
        hidden, keys, values = config.hidden_size, self.heads * self.key_width, self.heads * self.value_width
        self.q_proj, self.k_proj, self.v_proj = Linear(hidden, keys), Linear(hidden, keys), Linear(hidden, values)
        self.conv = ShortConvolution(2 * keys + values)

        def gate(channels: int, *, by_channel: bool = True) -> nn.Module:
            return LowRank(hidden, self.value_width, channels) if by_channel else Linear(hidden, self.heads)

        rule = self.rule
        self.f_proj = gate(keys, by_channel=rule.decay_by_channel)
        self.A_log = unset_parameter(self.heads)
        self.dt_bias = unset_parameter(keys if rule.decay_by_channel else self.heads)
        self.b_proj = gate(keys, by_channel=rule.gates_by_channel)
        self.c_proj = gate(values) if rule.writes else None
        self.g_proj = gate(values)
        self.o_norm = RMSNorm(self.value_width, config.rms_norm_eps)
        self.o_proj = Linear(values, hidden)

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        o_BTHV = self.mix(self.project(x_BTD), where, state)
        gated_BTHV = self.o_norm(o_BTHV) * self._by_head(self.g_proj(x_BTD)).sigmoid()
        return MixerOutput(self.o_proj(gated_BTHV.flatten(2)))

    def project(self, x_BTD: torch.Tensor) -> Streams:
        """Inputs of the convolution, log decays in float32 or better, and gates (their roots, for rules of roots)."""
        qkv_BTX = torch.cat((self.q_proj(x_BTD), self.k_proj(x_BTD), self.v_proj(x_BTD)), dim=-1)
        erase_BTHK = self._gate(self.b_proj(x_BTD))
        write_BTHV = erase_BTHK if self.c_proj is None else self._gate(self.c_proj(x_BTD))
        return Streams(qkv_BTX, self._log_decay(self.f_proj(x_BTD)), erase_BTHK, write_BTHV)

    def _log_decay(self, f_BTX: torch.Tensor) -> torch.Tensor:
        wide = accumulation_dtype(f_BTX.dtype)
        f_BTHK = self._by_head(f_BTX.to(wide) + self.dt_bias.to(wide))
        rate_H1 = self.A_log.to(wide).exp().unsqueeze(-1)
        if self.lower_bound is None:
            return -rate_H1 * F.softplus(f_BTHK)
        return self.lower_bound * (rate_H1 * f_BTHK).sigmoid()

    def _gate(self, b_BTX: torch.Tensor) -> torch.Tensor:
        """The root has a finite gradient everywhere, unlike that of a sigmoid that is rounded to zero."""
        b_BTHK = self._by_head(b_BTX)
        return (F.logsigmoid(b_BTHK) / 2).exp() if self.rule.roots else b_BTHK.sigmoid()

    def _by_head(self, x_BTX: torch.Tensor) -> torch.Tensor:
        return x_BTX.unflatten(-1, (self.heads, -1))

    def mix(self, streams: Streams, where: SequenceContext, state: StepState | None) -> torch.Tensor:
        """Outputs of the state [B, T, H, V] at every token; in a step, those of its pieces."""
        if isinstance(state, SlotState):
            assert where.layout is not None  # noqa: S101  a step has one
            return self._mix_pieces(streams, where.layout, state)
        x_BTX = short_convolution(streams.x_BTX, self._taps(), where.documents)
        return self._attend(streams._replace(x_BTX=x_BTX), where)[0]

    def _attend(
        self, streams: Streams, where: SequenceContext | None = None, state_BHKV: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs and last states, where x is the output of the convolution."""
        keys = self.heads * self.key_width
        q_BTHK, k_BTHK, v_BTHV = (
            self._by_head(x) for x in streams.x_BTX.split((keys, keys, self.heads * self.value_width), dim=-1)
        )
        q_BTHK, k_BTHK = _unit(q_BTHK), _unit(k_BTHK)
        gates: tuple[torch.Tensor | None, torch.Tensor | None] = streams.erase_BTHK, streams.write_BTHV
        if self.rule.roots:
            k_BTHK, v_BTHV, gates = k_BTHK * streams.erase_BTHK, v_BTHV * streams.write_BTHV, (None, None)
        return delta_rule(
            q_BTHK,
            k_BTHK,
            v_BTHV,
            streams.g_BTHK,
            *gates,
            scale=self.key_width**-0.5,
            state_BHKV=state_BHKV,
            cu_seqlens=None if where is None else where.documents,
        )

    def _mix_pieces(self, streams: Streams, layout: StepLayout, state: SlotState) -> torch.Tensor:
        """Pieces of equally many tokens are computed together, each from the state in its slot."""
        x_1TX = streams.x_BTX
        o_1THV = x_1TX.new_empty(*x_1TX.shape[:2], self.heads, self.value_width)
        for spans in _groups(layout):
            places_T = torch.tensor([token for span in spans for token in range(span.first, span.end)])
            index_T = places_T.to(x_1TX.device, non_blocking=True)
            own = streams.tokens(index_T, len(spans))
            held_GX = torch.stack([state.read(span) for span in spans])
            before_GSX = self._earlier(held_GX).to(x_1TX.dtype)
            inputs_GTX = torch.cat((before_GSX, own.x_BTX), dim=1)
            x_GTX = short_convolution(inputs_GTX, self._taps())[:, TAPS - 1 :]
            o_GTHV, last_GHKV = self._attend(own._replace(x_BTX=x_GTX), state_BHKV=self._matrices(held_GX))
            o_1THV[0, index_T] = o_GTHV.flatten(0, 1)
            kept_GX = torch.cat((last_GHKV.flatten(1), inputs_GTX[:, 1 - TAPS :].flatten(1)), dim=-1)
            for span, kept_X in zip(spans, kept_GX, strict=True):
                state.write(span, kept_X)
        return o_1THV

    def _matrices(self, held_GX: torch.Tensor) -> torch.Tensor:
        """The matrices of all heads in states."""
        shape = (self.heads, self.key_width, self.value_width)
        return held_GX[:, : math.prod(shape)].unflatten(1, shape)

    def _earlier(self, held_GX: torch.Tensor) -> torch.Tensor:
        """The last inputs of the convolution in states [G, S, X]."""
        return held_GX[:, self._matrix_values() :].unflatten(1, (TAPS - 1, -1))

    def _matrix_values(self) -> int:
        return self.heads * self.key_width * self.value_width

    def _taps(self) -> torch.Tensor:
        return self.conv.weight.squeeze(1)

    def state_kind(self) -> PerSequence:
        return PerSequence((self.state_values(1),), wide=True)

    def flops(self, tokens: int, cached: int) -> int:
        """Of a token: reading what is erased, writing, and reading the output."""
        return 6 * tokens * self._matrix_values()

    def state_values(self, length: int) -> int:
        return self._matrix_values() + (TAPS - 1) * self.conv.weight.shape[0]

    def expanded_values(self) -> int:
        return self.heads * (self.key_width + self.value_width)

    @classmethod
    def initial_value(
        cls, name: str, shape: tuple[int, ...], std: float, stream: np.random.Generator
    ) -> torch.Tensor | None:
        """Decay rates of 1 to 16 times steps of 0.001 to 0.1, both uniform in their logarithms but the former's rate;
        taps uniform within 1 / sqrt(4)."""
        if name == "A_log":
            values = np.log(stream.uniform(1, 16, shape))
        elif name == "dt_bias":
            steps = np.exp(stream.uniform(math.log(1e-3), math.log(1e-1), shape))
            values = np.log(np.expm1(steps))  # the inverse of softplus
        elif name == "conv.weight":
            values = stream.uniform(-(TAPS**-0.5), TAPS**-0.5, shape)
        else:
            return None
        return torch.from_numpy(values).float()

    @classmethod
    def parameter_kind(cls, name: str, dimensions: int) -> Kind | None:
        """The taps of a channel sum over four tokens, whatever the width."""
        return "vector" if name == "conv.weight" else None


def _unit(x_BTHK: torch.Tensor) -> torch.Tensor:
    wide = x_BTHK.to(accumulation_dtype(x_BTHK.dtype))
    unit: torch.Tensor = wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + UNIT_EPS)
    return unit.to(x_BTHK.dtype)


def _groups(layout: StepLayout) -> Iterator[list[Span]]:
    """Pieces with equally many tokens."""
    by_tokens: dict[int, list[Span]] = {}
    for span in layout.spans:
        by_tokens.setdefault(span.tokens, []).append(span)
    yield from by_tokens.values()
