"""Int4 matrices with a scale for each group of columns; rows are rounded to bfloat16, sums are float32.

Names: G groups of columns.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F

from longcat.kernels.packed_linear.base import PackedMatrix, Rows

GROUP = 32  # columns with one scale; the smallest that the operator takes has the least error
LEVELS = 7
ZERO = 8  # the operator takes values from 0 to 15 and subtracts this
OUTPUTS = 16  # the operator takes outputs by this many
LEAST = 1e-30


class Int4Matrix(PackedMatrix):
    """The matrix rounded to multiples of the largest magnitude of a row and group / 7."""

    form: ClassVar[str] = "int4"

    def __init__(self, weight_OI: torch.Tensor) -> None:
        outputs, inputs = weight_OI.shape
        self.missing = -inputs % GROUP
        padded_OJ = F.pad(weight_OI.float(), (0, self.missing, 0, -outputs % OUTPUTS))
        values_OJ, scale_OG = quantize(padded_OJ)
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu((values_OJ + ZERO).int(), 1)
        zeros_OG = torch.zeros_like(scale_OG)
        self.scales_GO2 = torch.stack((scale_OG, zeros_OG), dim=-1).transpose(0, 1).contiguous().bfloat16()
        super().__init__(weight_OI, padded_OJ.numel() // 2 + self.scales_GO2.nbytes)

    def enter(self, x_NI: torch.Tensor) -> Rows:
        narrow_NI = x_NI.bfloat16()
        return Rows(F.pad(narrow_NI, (0, self.missing)) if self.missing else narrow_NI)

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        y_NO: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(values_NJ, self.packed, GROUP, self.scales_GO2)
        return y_NO if y_NO.shape[1] == self.outputs else y_NO[:, : self.outputs]

    def leave(self, y_NO: torch.Tensor, rows: Rows) -> torch.Tensor:
        return y_NO.float()


def quantize(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values from -7 to 7, int8 [O, I], and scales [O, G], rounded to bfloat16; `I` is a multiple of the group."""
    groups_OGX = weight_OI.float().unflatten(1, (-1, GROUP))
    scale_OG = (groups_OGX.abs().amax(2).clamp_min(LEAST) / LEVELS).bfloat16().float()
    values_OGX = (groups_OGX / scale_OG.unsqueeze(2)).round_().clamp_(-LEVELS, LEVELS)
    return values_OGX.flatten(1).to(torch.int8), scale_OG
