"""Budgets of the windows that are computed at the same time, by layer, moved towards a common predicted time.

In a round, T is the predicted time of a layer for every window with the budget of the model, and the anchor is the
mean, least or largest T. A window above the anchor gets the largest smaller budget that meets the anchor and loses at
most a bounded share of attention mass; if there is none, it keeps its own. A window below it gets the largest budget
that meets the anchor, which costs no time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from longcat.stages.train.sparse_balance.config import Anchor

Floats = npt.NDArray[np.float64]

# Budgets that are considered, relative to that of the model.
RATIOS = (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0)
OWN = RATIOS.index(1.0)
ROUNDING = 1e-9  # of a mean of equal times


def candidates(budget: int) -> tuple[int, ...]:
    """The considered budgets, ascending; that of the model is at `OWN`."""
    return tuple(math.ceil(budget * ratio) for ratio in RATIOS)


def anchor_of(seconds: Floats, anchor: Anchor) -> float:
    """The anchor of the windows of a round."""
    return {"mean": float(seconds.mean()), "min": float(seconds.min()), "max": float(seconds.max())}[anchor]


def choose(seconds_R: Floats, coverage_R: Floats, anchor: float, bound: float) -> int:
    """Index of the chosen candidate for a window, from the seconds and the covered share of mass of every candidate.

    Unknown shares are NaN: such a budget is not chosen.
    """
    anchor *= 1 + ROUNDING
    if seconds_R[OWN] <= anchor:
        return max(place for place in range(OWN, len(RATIOS)) if seconds_R[place] <= anchor)
    for place in reversed(range(OWN)):
        if seconds_R[place] <= anchor and coverage_R[OWN] - coverage_R[place] <= bound:
            return place
    return OWN
