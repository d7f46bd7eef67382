"""Gated delta rule in segments of tokens: the backward pass keeps one state per segment and computes each again.

Names: B batch, T tokens of a segment, H heads, K key width, V value width, N segments; e the erased key, u the written
value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch.autograd.function import once_differentiable


class Inputs(NamedTuple):
    """q, k, e and g [B, T, H, K], u [B, T, H, V] of a segment; starts: tokens that begin a document, bool [B, T]."""

    q: torch.Tensor
    k: torch.Tensor
    e: torch.Tensor
    u: torch.Tensor
    g: torch.Tensor
    starts: torch.Tensor | None

    def within(self, span: slice) -> Inputs:
        """Those of some tokens."""
        return Inputs._make(None if x is None else x[:, span] for x in self)


class SegmentRule(Protocol):
    """Forward and backward pass of one segment."""

    segment: int

    def forward(self, inputs: Inputs, state_BHKV: torch.Tensor, o_BTHV: torch.Tensor) -> torch.Tensor:
        """Write the outputs to `o_BTHV`; returns the final state."""

    def backward(
        self,
        inputs: Inputs,
        state_BHKV: torch.Tensor,
        grad_BTHV: torch.Tensor,
        grad_state_BHKV: torch.Tensor,
        gradients: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        """Write the gradients of q, k, e, u and g to `gradients`; returns that of the first state.

        `state_BHKV` is the first state, `grad_state_BHKV` the gradient of the final one.
        """


def in_segments(rule: SegmentRule, inputs: Inputs, state_BHKV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [B, T, H, V] and final states."""
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (*inputs, state_BHKV)):
        found: tuple[torch.Tensor, torch.Tensor] = _Segments.apply(rule, inputs.starts, state_BHKV, *inputs[:5])
        return found
    return _forward(rule, inputs, state_BHKV, [])


def _spans(rule: SegmentRule, tokens: int) -> Iterator[slice]:
    return (slice(first, min(first + rule.segment, tokens)) for first in range(0, tokens, rule.segment))


def _forward(
    rule: SegmentRule, inputs: Inputs, state_BHKV: torch.Tensor, kept: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`kept` gets the first state of every segment."""
    o_BTHV = torch.empty(inputs.u.shape, dtype=inputs.u.dtype, device=inputs.u.device)
    for span in _spans(rule, inputs.u.shape[1]):
        kept.append(state_BHKV)
        state_BHKV = rule.forward(inputs.within(span), state_BHKV, o_BTHV[:, span])
    return o_BTHV, state_BHKV


class _Segments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rule: SegmentRule, starts_BT: torch.Tensor | None, state_BHKV: torch.Tensor, *given: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept: list[torch.Tensor] = []
        results = _forward(rule, Inputs._make((*given, starts_BT)), state_BHKV, kept)
        ctx.rule = rule
        ctx.save_for_backward(starts_BT, *given, torch.stack(kept))
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        starts_BT, *given, kept_NBHKV = ctx.saved_tensors
        inputs = Inputs._make((*given, starts_BT))
        grad_BTHV, grad_state_BHKV = gradients
        found = tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in given)
        spans = list(_spans(ctx.rule, inputs.u.shape[1]))
        for span, state_BHKV in zip(reversed(spans), kept_NBHKV.flip(0).unbind(), strict=True):
            parts = tuple(x[:, span] for x in found)
            grad_state_BHKV = ctx.rule.backward(
                inputs.within(span), state_BHKV, grad_BTHV[:, span], grad_state_BHKV, parts
            )
        return None, None, grad_state_BHKV, *found
