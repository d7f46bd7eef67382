"""RMS normalisation of bfloat16 or float16 rows on a CPU: float32 inside, in blocks of rows that fit the cache.

Saves the input and one value per row; the reference saves several float32 copies of the input.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

BLOCK_VALUES = 1 << 17  # values of a block, half a MiB in float32


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
        y_ND = torch.empty_like(x_ND)
        inverse_N1 = x_ND.new_empty(x_ND.shape[0], 1, dtype=torch.float32)
        for block in _blocks(x_ND):
            wide_ND, inverse = x_ND[block].float(), inverse_N1[block]
            torch.linalg.vector_norm(wide_ND, dim=-1, keepdim=True, out=inverse)
            inverse.square_().div_(x_ND.shape[1]).add_(eps).rsqrt_()
            y_ND[block] = wide_ND.mul_(inverse)
        ctx.save_for_backward(x_ND, weight_D, inverse_N1)
        return y_ND.mul_(weight_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, weight_D, inverse_N1 = ctx.saved_tensors
        wide_D, grad_x_ND = weight_D.float(), torch.empty_like(x_ND)
        grad_weight_D = torch.zeros_like(wide_D)
        for block in _blocks(x_ND):
            wide_ND, grad_ND, inverse = x_ND[block].float(), gradients[0][block].float(), inverse_N1[block]
            product_ND = grad_ND * wide_ND
            grad_weight_D.addmv_(product_ND.t(), inverse.squeeze(1))
            along_N1 = torch.mv(product_ND, wide_D).unsqueeze(1).mul_(inverse.square()).div_(-x_ND.shape[1])
            grad_x_ND[block] = grad_ND.mul_(wide_D).addcmul_(wide_ND, along_N1).mul_(inverse)
        return grad_x_ND, grad_weight_D.to(weight_D.dtype), None


def rms_norm(x_ND: torch.Tensor, weight_D: torch.Tensor, eps: float) -> torch.Tensor:
    """See `kernels.rms_norm.rms_norm`."""
    flat_ND = x_ND.reshape(-1, x_ND.shape[-1])
    y_ND: torch.Tensor = _RMSNorm.apply(flat_ND, weight_D, eps)
    return y_ND.view(x_ND.shape)


def _blocks(x_ND: torch.Tensor) -> Iterator[slice]:
    rows = max(1, BLOCK_VALUES // x_ND.shape[1])
    return (slice(first, first + rows) for first in range(0, x_ND.shape[0], rows))
