"""How fast every form of packed weights is on this machine, against torch's own float32 product."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F

from longcat.kernels.packed_linear import FORMS, missing, pack
from longcat.model.packed.choice import ROWS

OUTPUTS, INPUTS = 2048, 1024  # as a projection of a model of 1 B parameters
COPIES = 4  # take turns, so that the matrices do not stay in the first caches
CALLS, SECONDS = 40, 0.1  # at most, of each form and number of rows


def rates() -> dict[str, tuple[float, ...] | str]:
    """By form: calls a second relative to `F.linear`, for each of `choice.ROWS`, or why the form cannot be used."""
    weights = [torch.randn(OUTPUTS, INPUTS) for _ in range(COPIES)]
    inputs = [torch.randn(rows, INPUTS) for rows in ROWS]
    with torch.inference_mode():
        base = [_least([partial(F.linear, x, weight) for weight in weights]) for x in inputs]
        found: dict[str, tuple[float, ...] | str] = {}
        for form in FORMS:
            reason = missing(form)
            if reason is not None:
                found[form] = reason
                continue
            packed = [pack(weight, form) for weight in weights]
            own = [_least([partial(matrix, x) for matrix in packed]) for x in inputs]
            found[form] = tuple(round(one / other, 1) for one, other in zip(base, own, strict=True))
    return found


def _least(calls: Sequence[Callable[[], object]]) -> float:
    """Least seconds of a call: other processes can only add to it."""
    least, ends = float("inf"), time.perf_counter() + SECONDS
    for number in range(CALLS):
        started = time.perf_counter()
        calls[number % len(calls)]()
        stopped = time.perf_counter()
        least = min(least, stopped - started)
        if stopped > ends:
            break
    return least
