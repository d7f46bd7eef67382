"""Float32 matrices without loss: as they are, or in the blocks that oneDNN reads.

oneDNN reorders a plain matrix in every product of several rows, which takes as long as eight rows do. For a single row,
`kernels.linear` reads the plain matrix at the bandwidth of the memory, at less cost per call.
"""

from typing import ClassVar

import torch

from longcat.kernels.linear.cpu import product
from longcat.kernels.packed_linear.base import PackedMatrix

# Rows that oneDNN chooses its blocks for. Blocks for one row are slow for more, these are within 5 % at any number.
ROWS = 8


class PlainMatrix(PackedMatrix):
    """The matrix as it is, multiplied by the fastest library (`kernels.linear`)."""

    form: ClassVar[str] = "plain"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.weight_OI = weight_OI.contiguous()
        super().__init__(weight_OI, weight_OI.nbytes)

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        return product(values_NJ, self.weight_OI)


class BlockedMatrix(PackedMatrix):
    """The matrix in the blocks of oneDNN."""

    form: ClassVar[str] = "fp32"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), ROWS)
        self.multiply = torch.ops.mkldnn._linear_pointwise.default
        super().__init__(weight_OI, weight_OI.nbytes)

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        y_NO: torch.Tensor = self.multiply(values_NJ, self.packed, None, "none", [], "")
        return y_NO


class DoubleMatrix(PackedMatrix):
    """The matrix twice: as it is for one row, and in blocks for more. A product reads one of them."""

    form: ClassVar[str] = "both"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        self.one, self.more = PlainMatrix(weight_OI).product, BlockedMatrix(weight_OI).product
        super().__init__(weight_OI, weight_OI.nbytes)

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        return self.one(values_NJ) if len(values_NJ) == 1 else self.more(values_NJ)
