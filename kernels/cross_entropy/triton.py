"""Cross entropy and z-loss on GPUs: one program per row, online softmax normaliser over tiles.

`cross_entropy` reads the logits once forward and once backward. `row_losses_` does both in one program and writes the
gradient into the memory of the logits, for a caller that no longer needs them; in the second pass the row is still in
the cache (as in Liger Kernel, Hsu et al. 2024). Rows with an ignored target are not read.

Names: T tokens, V vocabulary.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.cross_entropy import reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MAX_BLOCK = 8192


@triton.jit
def _log_sum(logits_ptr, width, BLOCK: tl.constexpr):
    """(highest logit, sum of exp(logit - highest)) of a row."""
    top, total = float("-inf"), 0.0
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + column, mask=column < width, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(top, tl.max(x, axis=0))
        base = tl.where(higher == float("-inf"), 0.0, higher)  # a tile with only -inf adds nothing
        total = total * tl.exp(top - base) + tl.sum(tl.exp(x - base), axis=0)
        top = higher
    return top, total


@triton.jit
def _write_gradient(logits_ptr, grad_ptr, width, target, top, total, slope, factor, BLOCK: tl.constexpr):
    """`slope * softmax(logits) - factor * onehot(target)`; both pointers may be the same."""
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = tl.load(logits_ptr + column, mask=column < width, other=0.0).to(tl.float32)
        grad = tl.exp(x - top) * (slope / total) - tl.where(column == target, factor, 0.0)
        tl.store(grad_ptr + column, grad, mask=column < width)


@triton.jit
def _write_zeros(grad_ptr, width, BLOCK: tl.constexpr):
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        tl.store(grad_ptr + column, tl.zeros((BLOCK,), dtype=tl.float32), mask=column < width)


@triton.jit
def _forward_kernel(
    logits_ptr, targets_ptr, loss_ptr, z_ptr, top_ptr, total_ptr, width, ignore_index, z_coefficient,
    GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Loss of a row with the z-loss, and the z-loss; with GRADIENT, overwrite the logits with the loss gradient."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * width
    target = tl.load(targets_ptr + row)
    loss, z, top, total = 0.0, 0.0, 0.0, 1.0
    if target != ignore_index:
        top, total = _log_sum(row_ptr, width, BLOCK)
        known = (target >= 0) & (target < width)
        picked = tl.load(row_ptr + target, mask=known, other=float("nan")).to(tl.float32)
        log_sum = top + tl.log(total)
        z = z_coefficient * log_sum * log_sum
        loss = top - picked + tl.log(total) + z
        if GRADIENT:
            slope = 1.0 + 2.0 * z_coefficient * log_sum
            tl.debug_barrier()  # all threads must have read the logit of the target
            _write_gradient(row_ptr, row_ptr, width, target, top, total, slope, 1.0, BLOCK)
    elif GRADIENT:
        _write_zeros(row_ptr, width, BLOCK)
    tl.store(loss_ptr + row, loss)
    tl.store(z_ptr + row, z)
    if not GRADIENT:
        tl.store(top_ptr + row, top)
        tl.store(total_ptr + row, total)


@triton.jit
def _backward_kernel(
    grad_ptr, logits_ptr, targets_ptr, top_ptr, total_ptr, grad_logits_ptr, width, ignore_index, z_coefficient,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    target = tl.load(targets_ptr + row)
    if target != ignore_index:
        top, total, factor = tl.load(top_ptr + row), tl.load(total_ptr + row), tl.load(grad_ptr)
        slope = factor * (1.0 + 2.0 * z_coefficient * (top + tl.log(total)))
        _write_gradient(
            logits_ptr + row * width, grad_logits_ptr + row * width, width, target, top, total, slope, factor, BLOCK
        )
    else:
        _write_zeros(grad_logits_ptr + row * width, width, BLOCK)


def _options(width: int) -> dict[str, int]:
    block = min(MAX_BLOCK, triton.next_power_of_2(max(width, 1)))
    return {"BLOCK": block, "num_warps": min(16, max(1, block // 512))}


def _row_losses(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float, gradient: bool
) -> tuple[torch.Tensor, ...]:
    """(loss_T with the z-loss, z_T, top_T, total_T), float32."""
    rows, width = logits_TV.shape
    loss_T, z_T, top_T, total_T = torch.empty(4, rows, dtype=torch.float32, device=logits_TV.device)
    if rows:
        _forward_kernel[(rows,)](
            logits_TV, targets_T, loss_T, z_T, top_T, total_T, width, ignore_index, z_coefficient, GRADIENT=gradient,
            **_options(width),
        )  # fmt: skip
    return loss_T, z_T, top_T, total_T


def row_losses_(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss_T with the z-loss, z_T); `gradient`: overwrite `logits_TV` (contiguous) with the gradient of loss_T."""
    loss_T, z_T, _, _ = _row_losses(logits_TV, targets_T, ignore_index, z_coefficient, gradient)
    return loss_T, z_T


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        loss_T, z_T, top_T, total_T = _row_losses(logits_TV, targets_T, ignore_index, z_coefficient, gradient=False)
        ctx.save_for_backward(logits_TV, targets_T, top_T, total_T)
        ctx.constants = ignore_index, z_coefficient
        z = z_T.sum()
        ctx.mark_non_differentiable(z)
        return loss_T.sum(), z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits_TV, targets_T, top_T, total_T = ctx.saved_tensors
        rows, width = logits_TV.shape
        grad_TV = torch.empty_like(logits_TV)
        if rows:
            _backward_kernel[(rows,)](
                gradients[0], logits_TV, targets_T, top_T, total_T, grad_TV, width, *ctx.constants, **_options(width)
            )
        return grad_TV, None, None, None


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.cross_entropy.cross_entropy_with_z`."""
    if logits_TV.dtype not in DTYPES:
        return reference.cross_entropy(logits_TV, targets_T, ignore_index, z_coefficient)
    total, z = _CrossEntropy.apply(logits_TV.contiguous(), targets_T.contiguous(), ignore_index, z_coefficient)
    return total, z, (targets_T != ignore_index).sum()


def launches(chip: Chip) -> list[Launch]:
    """Launches for the vocabulary of LongCat-Flash, 131,072 tokens."""
    arguments = dict.fromkeys(("logits_ptr", "grad_logits_ptr"), "*bf16")
    arguments |= {f"{name}_ptr": "*fp32" for name in ("loss", "z", "top", "total", "grad")}
    arguments |= {"targets_ptr": "*i64", "width": "i32", "ignore_index": "i32", "z_coefficient": "fp32"}
    options = _options(131072)
    warps, block = options["num_warps"], {"BLOCK": options["BLOCK"]}
    return [
        Launch("forward", _forward_kernel, arguments, block | {"GRADIENT": False}, ("width",), warps),
        Launch("forward and gradient", _forward_kernel, arguments, block | {"GRADIENT": True}, ("width",), warps),
        Launch("backward", _backward_kernel, arguments, block, ("width",), warps),
    ]
