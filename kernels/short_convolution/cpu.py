"""Short causal convolution with a backward pass that keeps only the input, instead of a copy for every tap."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from longcat.kernels.precision import accumulation_dtype
from longcat.kernels.short_convolution import reference


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTX: torch.Tensor, weight_XS: torch.Tensor, first_BT: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x_BTX, weight_XS, first_BT)
        return F.silu(_sums(x_BTX, weight_XS, first_BT), inplace=True).to(x_BTX.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_BTX, weight_XS, first_BT = ctx.saved_tensors
        sums_BTX = _sums(x_BTX, weight_XS, first_BT)
        grad_BTX = torch.ops.aten.silu_backward(gradients[0].to(sums_BTX.dtype), sums_BTX)
        tokens, taps = x_BTX.shape[1], weight_XS.shape[1]
        grad_x_BTX, grad_weight_XS = torch.zeros_like(grad_BTX), grad_BTX.new_empty(weight_XS.shape)
        for back in range(taps):
            later_BTX, earlier = _masked(grad_BTX, first_BT, back), slice(0, max(tokens - back, 0))
            tap = taps - 1 - back
            grad_x_BTX[:, earlier].addcmul_(later_BTX, weight_XS[:, tap].to(grad_BTX.dtype))
            grad_weight_XS[:, tap] = (later_BTX * x_BTX[:, earlier]).sum((0, 1))
        return grad_x_BTX.to(x_BTX.dtype), grad_weight_XS.to(weight_XS.dtype), None


def short_convolution(x_BTX: torch.Tensor, weight_XS: torch.Tensor, first_BT: torch.Tensor | None) -> torch.Tensor:
    """See `kernels.short_convolution.short_convolution`."""
    if x_BTX.numel() == 0:
        return reference.short_convolution(x_BTX, weight_XS, first_BT)
    y_BTX: torch.Tensor = _ShortConvolution.apply(x_BTX, weight_XS, first_BT)
    return y_BTX


def _sums(x_BTX: torch.Tensor, weight_XS: torch.Tensor, first_BT: torch.Tensor | None) -> torch.Tensor:
    wide = accumulation_dtype(x_BTX.dtype)
    tokens, taps = x_BTX.shape[1], weight_XS.shape[1]
    weight_XS = weight_XS.to(wide)
    sums_BTX = x_BTX * weight_XS[:, -1]
    for back in range(1, min(taps, tokens)):
        earlier_BTX, weight_X = x_BTX[:, : tokens - back], weight_XS[:, taps - 1 - back]
        if first_BT is not None:
            own_BT1 = ~reference.reaches_over(first_BT, back)[:, back:].unsqueeze(-1)
            earlier_BTX = earlier_BTX * own_BT1
        sums_BTX[:, back:].addcmul_(earlier_BTX.to(wide), weight_X)
    return sums_BTX


def _masked(grad_BTX: torch.Tensor, first_BT: torch.Tensor | None, back: int) -> torch.Tensor:
    """Gradients of the tokens that have a token of their document `back` tokens before; zero for the others."""
    later_BTX = grad_BTX[:, back:]
    if first_BT is None or back == 0:
        return later_BTX
    return later_BTX.masked_fill(reference.reaches_over(first_BT, back)[:, back:].unsqueeze(-1), 0)
