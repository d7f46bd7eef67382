"""Bfloat16 matrices in the blocks of oneDNN; rows are rounded to bfloat16, sums are float32, results bfloat16.

Only for processors that multiply bfloat16. Others convert, and are slower than with float32.
"""

from typing import ClassVar

import torch

from longcat.kernels.packed_linear.base import PackedMatrix, Rows
from longcat.kernels.packed_linear.fp32 import ROWS


class BFloat16Matrix(PackedMatrix):
    """The matrix rounded to bfloat16."""

    form: ClassVar[str] = "bf16"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.bfloat16().contiguous(), ROWS)
        self.multiply = torch.ops.mkldnn._linear_pointwise.default
        super().__init__(weight_OI, 2 * weight_OI.numel())

    def enter(self, x_NI: torch.Tensor) -> Rows:
        return Rows(x_NI.bfloat16())

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        y_NO: torch.Tensor = self.multiply(values_NJ, self.packed, None, "none", [], "")
        return y_NO

    def leave(self, y_NO: torch.Tensor, rows: Rows) -> torch.Tensor:
        return y_NO.float()
