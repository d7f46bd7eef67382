"""Projection, loss and gradient in chunks of rows, for any row loss that overwrites the logits with its gradient.

Names: T tokens, D width, V vocabulary, C rows per chunk.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from longcat.kernels.precision import accumulation_dtype

# (logits_CV, targets_C, ignore_index, z_coefficient, gradient) -> (loss_C including the z-loss, z_C); with `gradient`,
# the logits are overwritten with the gradient.
RowLosses = Callable[[torch.Tensor, torch.Tensor, int, float, bool], tuple[torch.Tensor, torch.Tensor]]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_TD: torch.Tensor, weight_VD: torch.Tensor, targets_T: torch.Tensor, z_coefficient: float,
        ignore_index: int, row_losses_: RowLosses, chunk_bytes: int, keep: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        of_hidden, of_weight = (keep and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden_TD = torch.empty_like(hidden_TD) if of_hidden else None
        wide = accumulation_dtype(weight_VD.dtype)
        rows = chunk_rows(hidden_TD.shape[0], weight_VD, chunk_bytes)
        # One product is summed in float32 by itself.
        one = rows >= hidden_TD.shape[0] and not hidden_TD.is_cuda
        kept = weight_VD.dtype if one else wide
        grad_weight_VD = torch.empty_like(weight_VD, dtype=kept) if of_weight else None
        buffer_CV = hidden_TD.new_empty(rows, weight_VD.shape[0])
        losses: list[tuple[torch.Tensor, torch.Tensor]] = []
        for start in range(0, hidden_TD.shape[0], rows):
            hidden_CD, targets_C = hidden_TD[start : start + rows], targets_T[start : start + rows]
            logits_CV = torch.mm(hidden_CD, weight_VD.t(), out=buffer_CV[: hidden_CD.shape[0]])
            losses.append(row_losses_(logits_CV, targets_C, ignore_index, z_coefficient, of_hidden or of_weight))
            if grad_hidden_TD is not None:
                torch.mm(logits_CV, weight_VD, out=grad_hidden_TD[start : start + rows])
            if grad_weight_VD is not None:
                _add_product_(grad_weight_VD, logits_CV, hidden_CD, first=start == 0)
        if grad_weight_VD is not None and not losses:
            grad_weight_VD.zero_()
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD)
        ctx.weight_dtype = weight_VD.dtype
        empty_0 = hidden_TD.new_empty(0, dtype=wide)
        total, z = (torch.cat([empty_0, *parts]).sum() for parts in (zip(*losses, strict=True) if losses else ((), ())))
        ctx.mark_non_differentiable(z)
        return total, z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_hidden_TD, grad_weight_VD = ctx.saved_tensors
        factor = gradients[0]
        if grad_hidden_TD is not None:
            grad_hidden_TD = torch.mul(grad_hidden_TD, factor, out=torch.empty_like(grad_hidden_TD))
        if grad_weight_VD is not None:
            rounded_VD = torch.empty_like(grad_weight_VD, dtype=ctx.weight_dtype)
            grad_weight_VD = torch.mul(grad_weight_VD, factor, out=rounded_VD)
        return grad_hidden_TD, grad_weight_VD, None, None, None, None, None, None


def chunked_linear_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    z_coefficient: float,
    ignore_index: int,
    row_losses_: RowLosses,
    chunk_mib: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.linear_cross_entropy.linear_cross_entropy`; `chunk_mib` limits the size of the logits of a chunk."""
    keep = torch.is_grad_enabled()
    total, z = _Chunked.apply(
        hidden_TD, weight_VD, targets_T, z_coefficient, ignore_index, row_losses_, chunk_mib << 20, keep
    )
    return total, z, (targets_T != ignore_index).sum()


def chunk_rows(tokens: int, weight_VD: torch.Tensor, chunk_bytes: int) -> int:
    """Rows per chunk: as few chunks as the limit allows, all of about the same size."""
    most = max(1, chunk_bytes // max(1, weight_VD.shape[0] * weight_VD.element_size()))
    chunks = max(1, -(-tokens // most))
    return max(1, -(-tokens // chunks))


def _add_product_(total_VD: torch.Tensor, grad_CV: torch.Tensor, hidden_CD: torch.Tensor, first: bool) -> None:
    """`total_VD += grad_CV.T @ hidden_CD` in the precision of the total, which is uninitialised at the first call.

    On a CPU every product of half-precision chunks is rounded before it is added: there is no product with a wider
    result, and converting both factors would take five times as long as the product.
    """
    beta = 0 if first else 1
    if grad_CV.dtype == total_VD.dtype:
        torch.addmm(total_VD, grad_CV.t(), hidden_CD, beta=beta, out=total_VD)
    elif grad_CV.is_cuda:
        torch.addmm(total_VD, grad_CV.t(), hidden_CD, out_dtype=total_VD.dtype, beta=beta, out=total_VD)
    elif first:
        total_VD.copy_(torch.mm(grad_CV.t(), hidden_CD))
    else:
        total_VD.add_(torch.mm(grad_CV.t(), hidden_CD))
