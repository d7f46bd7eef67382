"""Chunked projection and cross entropy on a CPU: every logit is exponentiated once, in the cache, in place."""

import torch

from longcat.kernels.cross_entropy.cpu import block_rows
from longcat.kernels.linear_cross_entropy.chunked import chunked_linear_cross_entropy
from longcat.kernels.precision import accumulation_dtype

CHUNK_MIB = 64  # larger chunks are not faster; logits below this size are one chunk


def linear_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    z_coefficient: float,
    ignore_index: int,
    chunk_mib: int = CHUNK_MIB,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.linear_cross_entropy.linear_cross_entropy`."""
    return chunked_linear_cross_entropy(
        hidden_TD, weight_VD, targets_T, z_coefficient, ignore_index, _row_losses_, chunk_mib
    )


def _row_losses_(
    logits_CV: torch.Tensor, targets_C: torch.Tensor, ignore_index: int, z_coefficient: float, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = block_rows(logits_CV)
    parts = [
        _block_losses_(block, targets, ignore_index, z_coefficient, gradient)
        for block, targets in zip(logits_CV.split(rows), targets_C.split(rows), strict=True)
    ]
    loss_parts, z_parts = zip(*parts, strict=True)
    return torch.cat(loss_parts), torch.cat(z_parts)


def _block_losses_(
    logits_BV: torch.Tensor, targets_B: torch.Tensor, ignore_index: int, z_coefficient: float, gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    wide_BV = logits_BV.to(accumulation_dtype(logits_BV.dtype))
    counted_B1 = (targets_B != ignore_index).unsqueeze(1)
    target_B1 = targets_B.unsqueeze(1).where(counted_B1, 0)
    top_B1 = wide_BV.amax(-1, keepdim=True)
    picked_B1 = wide_BV.gather(1, target_B1)
    powers_BV = wide_BV.sub_(top_B1).exp_()
    total_B1 = powers_BV.sum(-1, keepdim=True)
    log_sum_B1 = top_B1 + total_B1.log()
    z_B1 = z_coefficient * log_sum_B1.square()
    loss_B1 = log_sum_B1 - picked_B1 + z_B1
    if gradient:
        slope_B1 = (1 + 2 * z_coefficient * log_sum_B1) / total_B1
        grad_BV = powers_BV.mul_(slope_B1.where(counted_B1, 0.0))
        # One target per row, so this scatter writes every element at most once.
        grad_BV.scatter_(1, target_B1, grad_BV.gather(1, target_B1).sub_(counted_B1.to(grad_BV.dtype)))
        if grad_BV.dtype != logits_BV.dtype:
            logits_BV.copy_(grad_BV)
    return loss_B1.where(counted_B1, 0.0).squeeze(1), z_B1.where(counted_B1, 0.0).squeeze(1)
