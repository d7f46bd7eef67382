"""Int8 matrices with one scale per output, and rows of 8 bits with one scale per row.

The operator of torch rounds all rows between the least and the greatest value of the whole batch, so that a row's
result would depend on the others. So every row is divided by its largest magnitude, and two more columns, with zero
weights, hold 1 and -1: then the range is [-1, 1] in every batch. Sums are integers, which makes rows independent of
their batch to the bit.
"""

from __future__ import annotations

import threading
from typing import ClassVar, NamedTuple

import torch

from longcat.kernels.packed_linear import torch_quantized
from longcat.kernels.packed_linear.base import PackedMatrix, Rows

LEVELS = 127
PADDING = (1.0, -1.0, 0.0, 0.0)  # the operator takes columns by four
LEAST = 1e-30  # a row of the matrix with smaller values counts as zero
# Up to here the padded rows are in memory that is kept; allocating and padding take as long as a small product.
FEW_ROWS = 16


class Quantized(NamedTuple):
    """values_OI: int8. scale_O: float32, the factor of each row."""

    values_OI: torch.Tensor
    scale_O: torch.Tensor

    def dequantized(self) -> torch.Tensor:
        """The float32 matrix that these values stand for."""
        return self.values_OI.float() * self.scale_O.unsqueeze(1)


def quantize(weight_OI: torch.Tensor) -> Quantized:
    """Round every row to multiples of its largest magnitude / 127."""
    wide_OI = weight_OI.float()
    scale_O = wide_OI.abs().amax(1).clamp_min(LEAST) / LEVELS if wide_OI.shape[1] else wide_OI.new_ones(len(weight_OI))
    values_OI = (wide_OI / scale_O.unsqueeze(1)).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)
    return Quantized(values_OI, scale_O)


class _Kept(threading.local):
    """By number of columns, memory of this thread for 1 to FEW_ROWS rows: padded, and without the padding."""

    def __init__(self) -> None:
        self.by_width: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}


_kept = _Kept()


def _memory(rows: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded rows [N, J] and their first `I` columns, which the caller sets; the next call may return the same."""
    if not 0 < rows <= FEW_ROWS:
        return _padded(rows, inputs)
    found = _kept.by_width.get(inputs)
    if found is None:
        with torch.inference_mode(False):
            all_NJ, _ = _padded(FEW_ROWS, inputs)
            found = [(all_NJ[:n], all_NJ[:n, :inputs]) for n in range(1, FEW_ROWS + 1)]
        _kept.by_width[inputs] = found
    return found[rows - 1]


def _padded(rows: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    padded_NJ = torch.empty(rows, inputs + len(PADDING))
    padded_NJ[:, inputs:] = torch.tensor(PADDING)
    return padded_NJ, padded_NJ[:, :inputs]


class Int8Matrix(PackedMatrix):
    """The matrix of `quantize`; rows are rounded to multiples of their largest magnitude / 127.5."""

    form: ClassVar[str] = "int8"
    batch_invariant: ClassVar[bool] = True

    def __init__(self, weight: torch.Tensor | Quantized) -> None:
        values_OI, scale_O = weight if isinstance(weight, Quantized) else quantize(weight)
        padded_OJ = torch.nn.functional.pad(values_OI, (0, len(PADDING)))
        self.multiply = torch_quantized.int8_product(torch_quantized.pack_int8(padded_OJ, scale_O))
        super().__init__(values_OI, padded_OJ.numel() + scale_O.nbytes)

    def enter(self, x_NI: torch.Tensor) -> Rows:
        scale_N1 = x_NI.abs().amax(dim=1, keepdim=True)
        padded_NJ, unit_NI = _memory(*x_NI.shape)
        # A row that is not finite has a scale that is not finite; its values must not widen the range of the others.
        # A row of zeros is divided by zero.
        torch.div(x_NI, scale_N1, out=unit_NI).nan_to_num_(0.0)
        return Rows(padded_NJ, scale_N1)

    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        return self.multiply(values_NJ)

    def leave(self, y_NO: torch.Tensor, rows: Rows) -> torch.Tensor:
        assert rows.scale_N1 is not None  # noqa: S101  set by `enter`
        return y_NO.mul_(rows.scale_N1)
