"""Assignment of the windows of a step to groups of processes, by longest processing time (Graham 1969).

Every group computes as many windows as the others, at the same time as the others: sharded parameters are gathered for
all of them together. So windows are taken in rounds of one per group, from the longest predicted time to the shortest;
in a round the longest goes to the group with the least total so far. The totals then differ by no more than the windows
of one round do, and the windows of a round, which are waited for, are alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def in_order(windows: int, groups: int) -> Ids:
    """Windows [groups, rounds] as the data has them."""
    return np.arange(windows, dtype=np.int64).reshape(groups, -1)


def longest_first(costs: Floats, groups: int) -> Ids:
    """Windows [groups, rounds] by their predicted costs; equal costs keep the order of the data.

    `groups` divides the number of windows.
    """
    rounds = np.argsort(-costs, kind="stable").reshape(-1, groups)
    assigned = np.empty((groups, len(rounds)), dtype=np.int64)
    totals = np.zeros(groups)
    for number, windows in enumerate(rounds):
        least_first = np.argsort(totals, kind="stable")
        assigned[least_first, number] = windows
        totals[least_first] += costs[windows]
    return assigned


def imbalance(totals: npt.ArrayLike) -> float:
    """Largest total relative to the mean; 1 if they are equal or all zero."""
    own = np.asarray(totals, dtype=np.float64)
    mean = float(own.mean())
    return float(own.max()) / mean if mean > 0 else 1.0
