"""The dense feed-forward network in bfloat16 or float16 on a CPU, forward and backward as one operation.

Saves the input and the two inner products; the activation is computed again, in float32 (`kernels.swiglu.half`).
"""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.swiglu.half import activate, differentiate


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor
    ) -> torch.Tensor:
        gate_NF, up_NF = torch.mm(x_ND, gate_FD.t()), torch.mm(x_ND, up_FD.t())
        ctx.save_for_backward(x_ND, gate_NF, up_NF, gate_FD, up_FD, down_DF)
        return torch.mm(activate(gate_NF, up_NF), down_DF.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, gate_NF, up_NF, gate_FD, up_FD, down_DF = ctx.saved_tensors
        grad_ND = gradients[0]
        active_NF = torch.mm(grad_ND, down_DF)
        grad_gate_NF, grad_up_NF = torch.empty_like(gate_NF), torch.empty_like(up_NF)
        differentiate(gate_NF, up_NF, active_NF, grad_gate_NF, grad_up_NF)
        grad_down_DF = torch.mm(grad_ND.t(), active_NF)
        grad_x_ND = torch.mm(grad_gate_NF, gate_FD).addmm_(grad_up_NF, up_FD)
        return grad_x_ND, torch.mm(grad_gate_NF.t(), x_ND), torch.mm(grad_up_NF.t(), x_ND), grad_down_DF


def feed_forward(x_ND: torch.Tensor, gate_FD: torch.Tensor, up_FD: torch.Tensor, down_DF: torch.Tensor) -> torch.Tensor:
    """See `kernels.feed_forward.feed_forward`."""
    y_ND: torch.Tensor = _FeedForward.apply(x_ND.reshape(-1, x_ND.shape[-1]), gate_FD, up_FD, down_DF)
    return y_ND.view(x_ND.shape)
