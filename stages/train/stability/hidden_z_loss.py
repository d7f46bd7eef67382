"""Hidden z-loss, which limits the growth of the residual stream (LongCat-Flash report, eq. 10).

    L_Z = lambda / T * sum over tokens of ( log sum_i exp |z_i| )^2          z: the last layer's output, before the norm

Names: B batch, T tokens, D hidden.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.precision import accumulation_dtype


class _HiddenZLoss(torch.autograd.Function):
    """Saves the hidden states and one value per token; autograd would save two full-width copies."""

    @staticmethod
    def forward(ctx: Any, z_BTD: torch.Tensor) -> torch.Tensor:
        lse_BT1 = _wide(z_BTD).abs().logsumexp(dim=-1, keepdim=True)
        ctx.save_for_backward(z_BTD, lse_BT1)
        return lse_BT1.square().sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        z_BTD, lse_BT1 = ctx.saved_tensors
        shares_BTD = (_wide(z_BTD).abs() - lse_BT1).exp_()
        return shares_BTD.mul_(z_BTD.sign()).mul_(2 * gradients[0] * lse_BT1).to(z_BTD.dtype)


def _wide(z_BTD: torch.Tensor) -> torch.Tensor:
    return z_BTD.to(accumulation_dtype(z_BTD.dtype))


def hidden_z_loss(residual_BTD: torch.Tensor) -> torch.Tensor:
    """Sum over the tokens of the squared log-sum-exp of |z|, at least float32; scale by lambda / tokens.

    `residual_BTD` is from `model.transformer.BackboneOutput`.
    """
    loss: torch.Tensor = _HiddenZLoss.apply(residual_BTD)
    return loss
