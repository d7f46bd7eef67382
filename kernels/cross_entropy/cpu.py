"""Cross entropy that saves only the logits, without log-probabilities, in blocks that fit into the CPU cache."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.precision import accumulation_dtype

BLOCK_VALUES = 1 << 18  # logits in a block, one MiB in float32


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits_TV: torch.Tensor, targets_T: torch.Tensor, counted_T: torch.Tensor, z_coefficient: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = logits_TV.split(block_rows(logits_TV))
        log_sum_T = torch.cat([torch.logsumexp(block, dim=-1) for block in blocks])
        ctx.save_for_backward(logits_TV, targets_T, counted_T, log_sum_T)
        ctx.z_coefficient = z_coefficient
        z_T = z_coefficient * log_sum_T.square()
        loss_T = log_sum_T - logits_TV.gather(1, targets_T.unsqueeze(1)).squeeze(1) + z_T
        z = z_T.where(counted_T, 0.0).sum()
        ctx.mark_non_differentiable(z)
        return loss_T.where(counted_T, 0.0).sum(), z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        logits_TV, targets_T, counted_T, log_sum_T = ctx.saved_tensors
        factor_T1 = gradients[0].where(counted_T, 0.0).unsqueeze(1)
        slope_T1 = factor_T1 * (1 + 2 * ctx.z_coefficient * log_sum_T).unsqueeze(1)
        grad_TV = torch.empty_like(logits_TV)
        rows = block_rows(logits_TV)
        for logits, grad, slope in zip(logits_TV.split(rows), grad_TV.split(rows), slope_T1.split(rows), strict=True):
            torch.softmax(logits, dim=-1, out=grad)
            grad.mul_(slope)
        # One target per row, so this scatter writes every element at most once.
        target_T1 = targets_T.unsqueeze(1)
        grad_TV.scatter_(1, target_T1, grad_TV.gather(1, target_T1).sub_(factor_T1))
        return grad_TV, None, None, None


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.cross_entropy.cross_entropy_with_z`."""
    counted_T = targets_T != ignore_index
    wide_TV = logits_TV.to(accumulation_dtype(logits_TV.dtype))
    total, z = _CrossEntropy.apply(wide_TV, targets_T.where(counted_T, 0), counted_T, z_coefficient)
    return total, z, counted_T.sum()


def block_rows(logits_TV: torch.Tensor) -> int:
    """Number of rows per block."""
    return max(1, BLOCK_VALUES // max(1, logits_TV.shape[1]))
