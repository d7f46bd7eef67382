"""The experts as grouped matrix products, with a backward that saves inputs and pre-activations only."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from longcat.kernels.grouped_mlp import reference
from longcat.kernels.select import KernelError
from longcat.kernels.swiglu.cpu import backward as swiglu_backward

ROW_ALIGNMENT = 16  # bytes; torch.nn.functional.grouped_mm requires row strides that are a multiple of this
GROUPED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class _GroupedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
    ) -> torch.Tensor:
        hidden_RG = F.grouped_mm(rows_RD, gate_up_NGD.transpose(1, 2), offs=ends_N)
        gate_RF, up_RF = hidden_RG.chunk(2, dim=-1)
        active_RF = F.silu(gate_RF).mul_(up_RF)
        ctx.save_for_backward(rows_RD, hidden_RG, gate_up_NGD, down_NDF, ends_N)
        return F.grouped_mm(active_RF, down_NDF.transpose(1, 2), offs=ends_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows_RD, hidden_RG, gate_up_NGD, down_NDF, ends_N = ctx.saved_tensors
        grad_RD = gradients[0].contiguous()
        gate_RF, up_RF = hidden_RG.chunk(2, dim=-1)
        grad_active_RF = F.grouped_mm(grad_RD, down_NDF, offs=ends_N)
        grad_hidden_RG = torch.empty_like(hidden_RG)
        silu_RF = swiglu_backward(grad_active_RF, gate_RF, up_RF, *grad_hidden_RG.chunk(2, dim=-1))
        grad_down_NDF = F.grouped_mm(grad_RD.t(), silu_RF.mul_(up_RF), offs=ends_N)
        grad_gate_up_NGD = F.grouped_mm(grad_hidden_RG.t(), rows_RD, offs=ends_N)
        grad_rows_RD = F.grouped_mm(grad_hidden_RG, gate_up_NGD, offs=ends_N)
        return grad_rows_RD, grad_gate_up_NGD, grad_down_NDF, None


def grouped_mlp(
    rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor, ends_N: torch.Tensor
) -> torch.Tensor:
    """See `kernels.grouped_mlp.grouped_mlp`. Widths that grouped products do not support use the reference."""
    if not _supported(rows_RD, gate_up_NGD, down_NDF):
        return reference.grouped_mlp(rows_RD, gate_up_NGD, down_NDF, ends_N)
    if not rows_RD.is_cuda:
        end, rows = int(ends_N[-1]), rows_RD.shape[0]
        if end > rows:
            raise KernelError(f"grouped_mlp: the last end is {end}, but there are {rows} rows")
        if end < rows:
            return F.pad(grouped_mlp(rows_RD[:end], gate_up_NGD, down_NDF, ends_N), (0, 0, 0, rows - end))
    y_RD: torch.Tensor = _GroupedMLP.apply(
        rows_RD.contiguous(), gate_up_NGD.contiguous(), down_NDF.contiguous(), ends_N
    )
    return y_RD


def _supported(rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor) -> bool:
    same_dtype = rows_RD.dtype == gate_up_NGD.dtype == down_NDF.dtype and rows_RD.dtype in GROUPED_DTYPES
    widths = (rows_RD.shape[1], down_NDF.shape[2])
    aligned = all(width * rows_RD.element_size() % ROW_ALIGNMENT == 0 for width in widths)
    return same_dtype and aligned and rows_RD.shape[0] > 0
