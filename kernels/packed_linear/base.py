"""Interface of matrices in a packed form.

A product has three parts, so that the first and the last are done once for several matrices of one input: `enter` turns
rows into what the form multiplies, `product` multiplies, and `leave` turns the result into float32.

Names: N rows, I inputs, J width of entered rows, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch


class Rows(NamedTuple):
    """Rows as a form multiplies them, and the factor of each row's results; None if it is one."""

    values_NJ: torch.Tensor
    scale_N1: torch.Tensor | None = None


class PackedMatrix(ABC):
    """A matrix [O, I] for inference on a CPU. `nbytes` are the bytes that a product reads.

    Rows and results are float32 and two-dimensional, any number of rows, also none. There is no gradient.
    """

    # Name of the form.
    form: ClassVar[str]
    # Whether a row's bits are the same in any batch.
    batch_invariant: ClassVar[bool] = False

    def __init__(self, weight_OI: torch.Tensor, nbytes: int) -> None:
        self.outputs, self.inputs = weight_OI.shape
        self.nbytes = nbytes

    def __call__(self, x_NI: torch.Tensor) -> torch.Tensor:
        """`y_NO = x_NI weight_OI^T`, float32."""
        rows = self.enter(x_NI)
        return self.leave(self.product(rows.values_NJ), rows)

    def enter(self, x_NI: torch.Tensor) -> Rows:
        """Rows for `product` of any matrix of this form with `I` inputs; the next `enter` may use their memory."""
        return Rows(x_NI)

    @abstractmethod
    def product(self, values_NJ: torch.Tensor) -> torch.Tensor:
        """Results before `leave`; at least one row."""

    def leave(self, y_NO: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Float32 results of the rows that entered; may change `y_NO` in place."""
        return y_NO
