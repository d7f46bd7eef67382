"""Float16 matrices; rows, products and sums are float32."""

from typing import ClassVar

import torch

from longcat.kernels.packed_linear import torch_quantized
from longcat.kernels.packed_linear.base import PackedMatrix
from longcat.kernels.select import KernelError

LARGEST = 65504.0


class Float16Matrix(PackedMatrix):
    """The matrix rounded to float16.

    Raises:
        KernelError: a value is beyond the range of float16.
    """

    form: ClassVar[str] = "fp16"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        largest = float(weight_OI.abs().max()) if weight_OI.numel() else 0.0
        if not largest <= LARGEST:
            raise KernelError(f"packed_linear: the value {largest} is beyond float16 ({LARGEST}); use fp32 or bf16")
        self.multiply = torch_quantized.fp16_product(torch_quantized.pack_fp16(weight_OI.float()))
        super().__init__(weight_OI, 2 * weight_OI.numel())

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        return self.multiply(values_NJ)
