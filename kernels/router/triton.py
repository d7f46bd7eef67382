"""The router on GPUs: softmax, selection, weights and counts in one kernel, the backward in another.

A program holds the scores of a token in registers and removes the highest K times. Scores are compared as integers with
the same order, with -0.0 equal to 0.0 and NaN above all other values, as in `torch.sort`; for equal scores the lowest
index is selected. Every program counts the selections of its tokens, so the counts are a sum over programs without
atomics.

Names: T tokens, E experts, K slots per token, P programs.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.router import reference
from longcat.kernels.router.reference import Routing

MAX_EXPERTS = 4096
PROGRAMS = 2048  # about sixteen per multiprocessor


@triton.jit
def _softmax(logits_ptr, row, experts, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    logits = tl.load(logits_ptr + row * experts + column, mask=column < experts, other=float("-inf"))
    powers = tl.exp(logits - tl.max(logits, axis=0))
    return powers / tl.sum(powers, axis=0)


@triton.jit
def _forward_kernel(
    logits_ptr, bias_ptr, weights_ptr, experts_ptr, partial_ptr, rows, rows_a_program, experts, topk, scaling,
    BLOCK: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column, slot = tl.arange(0, BLOCK), tl.arange(0, BLOCK_K)
    inside = column < experts
    count = tl.zeros((BLOCK,), dtype=tl.int32)
    first = program * rows_a_program
    for row in range(first, tl.minimum(first + rows_a_program, rows)):
        scores = _softmax(logits_ptr, row, experts, BLOCK)
        choice = scores + tl.load(bias_ptr + column, mask=inside, other=0.0) + 0.0
        bits = choice.to(tl.int32, bitcast=True)
        # Flipping the low bits of negative floats makes their bits sort like numbers; NaN bits are above infinity.
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        key = tl.where(is_nan, 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
        key = tl.where(inside, key, -0x80000000)
        chosen = tl.zeros((BLOCK_K,), dtype=tl.int32)
        weights = tl.zeros((BLOCK_K,), dtype=tl.float32)
        for k in range(topk):
            expert = tl.min(tl.where(key == tl.max(key, axis=0), column, BLOCK), axis=0)
            taken = column == expert
            chosen = tl.where(slot == k, expert, chosen)
            weights = tl.where(slot == k, tl.sum(tl.where(taken, scores, 0.0), axis=0), weights)
            key = tl.where(taken, -0x80000000, key)
        count += (inside & (key == -0x80000000)).to(tl.int32)  # no score has this key
        place = row * topk + slot
        tl.store(experts_ptr + place, chosen.to(tl.int64), mask=slot < topk)
        tl.store(weights_ptr + place, weights * scaling, mask=slot < topk)
    tl.store(partial_ptr + program * experts + column, count, mask=inside)


@triton.jit
def _backward_kernel(
    logits_ptr, weights_ptr, experts_ptr, grad_ptr, grad_logits_ptr, experts, topk, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    total = 0.0
    selected = tl.zeros((BLOCK,), dtype=tl.float32)
    for place in range(row * topk, (row + 1) * topk):
        flow = tl.load(grad_ptr + place) * tl.load(weights_ptr + place)
        selected += tl.where(column == tl.load(experts_ptr + place), flow, 0.0)
        total += flow
    grad = selected - _softmax(logits_ptr, row, experts, BLOCK) * total
    tl.store(grad_logits_ptr + row * experts + column, grad, mask=column < experts)


def _warps(block: int) -> int:
    return max(1, block // 512)


class _Route(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, experts = logits_TE.shape
        block = triton.next_power_of_2(experts)
        weights_TK = logits_TE.new_empty(rows, topk)
        experts_TK = torch.empty(rows, topk, dtype=torch.int64, device=logits_TE.device)
        rows_a_program = max(1, triton.cdiv(rows, PROGRAMS))
        programs = triton.cdiv(rows, rows_a_program)
        partial_PE = torch.empty(programs, experts, dtype=torch.int32, device=logits_TE.device)
        if rows:
            _forward_kernel[(programs,)](
                logits_TE, bias_E, weights_TK, experts_TK, partial_PE, rows, rows_a_program, experts, topk, scaling,
                BLOCK=block, BLOCK_K=triton.next_power_of_2(topk), num_warps=_warps(block),
            )  # fmt: skip
        counts_E = partial_PE.sum(0)
        ctx.save_for_backward(logits_TE, weights_TK, experts_TK)
        ctx.mark_non_differentiable(experts_TK, counts_E)
        return weights_TK, experts_TK, counts_E

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits_TE, weights_TK, experts_TK = ctx.saved_tensors
        rows, experts = logits_TE.shape
        block = triton.next_power_of_2(experts)
        grad_logits_TE = torch.empty_like(logits_TE)
        if rows:
            _backward_kernel[(rows,)](
                logits_TE, weights_TK, experts_TK, gradients[0].contiguous(), grad_logits_TE, experts,
                weights_TK.shape[1], BLOCK=block, num_warps=_warps(block),
            )  # fmt: skip
        return grad_logits_TE, None, None, None


def route(logits_TE: torch.Tensor, bias_E: torch.Tensor, topk: int, scaling: float) -> Routing:
    """See `kernels.router.route`."""
    both_float32 = logits_TE.dtype == bias_E.dtype == torch.float32
    if not both_float32 or logits_TE.shape[-1] > MAX_EXPERTS:
        return reference.route(logits_TE, bias_E, topk, scaling)
    return Routing(*_Route.apply(logits_TE.contiguous(), bias_E.contiguous(), topk, scaling))


def launches(chip: Chip) -> list[Launch]:
    """Launches for the sizes of LongCat-Flash: 768 experts, 12 selected."""
    arguments = dict.fromkeys(("logits_ptr", "bias_ptr", "weights_ptr", "grad_ptr", "grad_logits_ptr"), "*fp32")
    arguments |= {"experts_ptr": "*i64", "partial_ptr": "*i32", "scaling": "fp32"}
    arguments |= dict.fromkeys(("rows", "rows_a_program", "experts", "topk"), "i32")
    block = triton.next_power_of_2(768)
    constants, warps = {"BLOCK": block}, _warps(block)
    return [
        Launch("forward", _forward_kernel, arguments, constants | {"BLOCK_K": 16}, ("experts",), num_warps=warps),
        Launch("backward", _backward_kernel, arguments, constants, ("experts",), num_warps=warps),
    ]
