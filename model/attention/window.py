"""Latent attention to a window of positions: the local attention of ASA (arXiv:2511.00819), and the streaming form of
ZigZag (LongCat-Flash-Thinking-2601, section 6), whose window consists of blocks behind a block of sinks.

The parameters are those of `mla`, so a checkpoint is converted by a change of its configuration. The state is a ring in
a slot per sequence, whose size does not depend on the length (`model.attention.ring`). It cannot go back: an engine
computes such sequences again, as those of other states per sequence.

Names: T tokens of the step, Y single tokens among them, S positions, X held positions, H heads, C latent width,
R rotary width, N width without position, V value width, E = C + R.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

import torch
from pydantic import Field, model_validator

from longcat.kernels.mla_attention import Window
from longcat.model.attention.base import MixerOutput, SequenceContext
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.paged_mla import attend_absorbed, attend_expanded
from longcat.model.attention.pages import PageState, PerSequence, SlotState, StateKind, StepState
from longcat.model.attention.ring import Ring, RingPieces
from longcat.model.bounds import MAX_CONTEXT

if TYPE_CHECKING:
    from longcat.model.config import ModelConfig


class WindowOptions(MixerOptions):
    """Options of `window`. Streaming attention is `{size: 896, sinks: 128, block: 128}`."""

    size: int = Field(default=512, ge=1, le=MAX_CONTEXT, description="positions of the window, with the token's own")
    sinks: int = Field(default=0, ge=0, le=MAX_CONTEXT, description="first positions, which every token sees")
    block: int = Field(default=1, ge=1, le=MAX_CONTEXT, description="positions by which the window moves")

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.size % self.block or self.sinks % self.block:
            raise ValueError(
                f"block = {self.block} must divide size = {self.size} and sinks = {self.sinks}; change one of them"
            )
        return self

    @property
    def window(self) -> Window:
        """As the kernels take it."""
        return Window(self.size, self.sinks, self.block)


class WindowAttention(MultiHeadLatentAttention):
    """Latent attention in which a token sees the last positions, and the first ones of its document."""

    Options = WindowOptions
    kind: ClassVar[str] = "window"
    parts_of_rows: ClassVar[str] = MultiHeadLatentAttention.parts_of_rows
    window: Window

    def __init__(self, config: ModelConfig, slot: int, options: WindowOptions) -> None:
        super().__init__(config, slot, options)
        self.window = options.window
        self.ring = Ring(self.window)
        self._sees_all = False

    @classmethod
    def check(cls, config: ModelConfig, options: MixerOptions) -> None:
        assert isinstance(options, WindowOptions)  # noqa: S101  as parsed for this kind
        if options.size + options.sinks > config.max_position_embeddings:
            raise ValueError(
                f"size = {options.size} and sinks = {options.sinks} exceed max_position_embeddings = "
                f"{config.max_position_embeddings}; use smaller ones, or mla, which sees all positions"
            )

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        if isinstance(state, SlotState):
            return MixerOutput(self.o_proj(self._attend_in_ring(x_BTD, where, state).flatten(2)))
        return super().forward(x_BTD, where, state)

    def _attend_in_ring(self, x_1TD: torch.Tensor, where: SequenceContext, state: SlotState) -> torch.Tensor:
        """Attention output [1, T, H, V] of the tokens of a step; the ring of each sequence moves on."""
        layout = where.layout
        assert layout is not None  # noqa: S101  a step has one
        pieces = layout.once(self.ring, lambda: RingPieces(self.ring, layout))
        for span in layout.spans:
            state.check(span)
        projected = self.project(x_1TD, where)
        joint_TE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), dim=-1)[0]
        o_THV = x_1TD.new_empty(x_1TD.shape[1], self.heads, self.value_width)
        for span, held_X in pieces.longer:  # read before their ring moves on
            seen_SE = torch.cat((state.values[span.slot].index_select(0, held_X), joint_TE[span.first : span.end]))
            o_THV[span.first : span.end] = attend_expanded(self, projected, seen_SE, span, where)
        state.values.flatten(0, 1).index_copy_(0, pieces.places_N, joint_TE.index_select(0, pieces.tokens_N))
        for span in layout.spans:
            state.advance(span)
        if pieces.group is not None:
            pages = PageState(self.ring.pages(state.values))
            q_nope_YHN = projected.q_nope_BTHN[0].index_select(0, pieces.single_Y)
            q_rope_YHR = projected.q_rope_BTHR[0].index_select(0, pieces.single_Y)
            o_THV[pieces.single_Y] = attend_absorbed(self, q_nope_YHN, q_rope_YHR, (pieces.group,), pages)
        return o_THV.unsqueeze(0)

    def state_kind(self) -> StateKind:
        return PerSequence((self.ring.capacity, self.latent_width + self.rope_width))

    def flops(self, tokens: int, cached: int) -> int:
        pairs = self.window.pairs(tokens, cached)
        if tokens == 1 and cached:
            return 2 * pairs * self._absorbed_width()
        return 2 * pairs * self.expanded_values() + 2 * len(self.ring.held(cached)) * self._expansion()

    def state_values(self, length: int) -> int:
        return self.ring.capacity * (self.latent_width + self.rope_width)
