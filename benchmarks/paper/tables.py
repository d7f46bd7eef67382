"""Text tables over several seeds: mean and standard deviation, and paired differences per seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

Figures = dict[str, object]


def spread(values: Sequence[float], digits: int = 4) -> str:
    """`mean ± standard deviation` over seeds; values that are not finite are counted separately."""
    finite = [value for value in values if math.isfinite(value)]
    lost = f", {len(values) - len(finite)} diverged" if len(finite) < len(values) else ""
    if not finite:
        return "diverged"
    deviation = statistics.stdev(finite) if len(finite) > 1 else 0.0
    return f"{statistics.fmean(finite):.{digits}f} ± {deviation:.{digits}f}{lost}"


def difference(first: Sequence[float], second: Sequence[float]) -> str:
    """`first - second` per seed: mean, standard error of the mean, number of seeds in which the first is lower."""
    gaps = [one - other for one, other in zip(first, second, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else math.nan
    lower = sum(gap < 0 for gap in gaps)
    return f"{statistics.fmean(gaps):+.4f} ± {error:.4f} (standard error), lower in {lower} of {len(gaps)} seeds"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
