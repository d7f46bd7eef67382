"""The gated activation with a backward that saves only the two inputs and writes both gradients in one pass."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_NF: torch.Tensor, up_NF: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate_NF, up_NF)
        return F.silu(gate_NF).mul_(up_NF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gate_NF, up_NF = ctx.saved_tensors
        grad_gate_NF, grad_up_NF = torch.empty_like(gate_NF), torch.empty_like(up_NF)
        backward(gradients[0], gate_NF, up_NF, grad_gate_NF, grad_up_NF)
        return grad_gate_NF, grad_up_NF


def backward(
    grad_NF: torch.Tensor,
    gate_NF: torch.Tensor,
    up_NF: torch.Tensor,
    grad_gate_NF: torch.Tensor,
    grad_up_NF: torch.Tensor,
) -> torch.Tensor:
    """Write the gradients of both inputs for `grad_NF` of the output; returns `silu(gate)` for reuse."""
    silu_NF = F.silu(gate_NF)
    torch.mul(grad_NF, silu_NF, out=grad_up_NF)
    torch.ops.aten.silu_backward.grad_input(grad_NF * up_NF, gate_NF, grad_input=grad_gate_NF)
    return silu_NF


def swiglu(gate_NF: torch.Tensor, up_NF: torch.Tensor) -> torch.Tensor:
    """See `kernels.swiglu.swiglu`."""
    if not torch.is_grad_enabled():
        return F.silu(gate_NF).mul_(up_NF)
    activated_NF: torch.Tensor = _SwiGLU.apply(gate_NF, up_NF)
    return activated_NF
