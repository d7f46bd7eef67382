"""Arrays of features: types, and how columns are made and joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def scaled_log(values: Any) -> Floats:
    """A fifth of log(1 + value), 0 for negative values."""
    logarithms: Floats = (np.log1p(np.maximum(np.asarray(values, np.float32), 0)) / 5).astype(np.float32)
    return logarithms


def side_by_side(columns: Sequence[Any]) -> Floats:
    """Columns of equal length as an array, [length, columns]; `np.stack` is several times slower on short ones."""
    made = np.empty((len(columns), len(columns[0])), np.float32)
    for row, column in zip(made, columns, strict=True):
        row[:] = column
    return made.T
