"""Downsampling of curves to intervals with minimum, mean and maximum, so that no spike is lost."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from longcat.stages.report.metrics import Floats, Steps

DIGITS, BAND_DIGITS = 5, 4


def reduced(steps: Steps, values: Floats, points: int) -> dict[str, Any]:
    """A curve of at most `points` points: `x`, `y`, and `low` and `high` if a point covers several steps.

    x is the last step of an interval, y the mean of its values; non-finite values are skipped, and an interval of only
    those is a gap (None).
    """
    if len(steps) <= points:
        return {"x": steps.tolist(), "y": [rounded(value) for value in values.tolist()]}
    starts = np.linspace(0, len(steps), points + 1).astype(np.int64)[:-1]
    finite = np.isfinite(values)
    counts = np.add.reduceat(finite, starts, dtype=np.int64)
    sums = np.add.reduceat(np.where(finite, values, 0.0), starts)
    low = np.minimum.reduceat(np.where(finite, values, np.inf), starts)
    high = np.maximum.reduceat(np.where(finite, values, -np.inf), starts)
    mean = np.divide(sums, counts, out=np.full(points, np.nan), where=counts > 0)
    ends = steps[np.append(starts[1:], len(steps)) - 1]
    return {
        "x": ends.tolist(),
        "y": [rounded(value) for value in mean.tolist()],
        "low": [rounded(value, BAND_DIGITS) for value in low.tolist()],
        "high": [rounded(value, BAND_DIGITS) for value in high.tolist()],
    }


def rounded(value: float, digits: int = DIGITS) -> float | int | None:
    """Round a number to plot precision; None unless it is finite."""
    if not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 2**53 else short


def bends(steps: Steps, tokens: Floats) -> tuple[list[int], list[int]]:
    """Breakpoints of the piecewise linear tokens over steps: ends, and changes of tokens per step."""
    if len(steps) < 3:
        return steps.tolist(), tokens.astype(np.int64).tolist()
    slopes = np.diff(tokens) / np.diff(steps)
    bent = np.flatnonzero(np.diff(slopes)) + 1
    chosen = np.unique(np.concatenate([[0], bent[:1000], [len(steps) - 1]]))
    return steps[chosen].tolist(), tokens[chosen].astype(np.int64).tolist()
