"""When the requests of an open loop are due."""

from __future__ import annotations

import random


def poisson(rate: float, requests: int, seed: int) -> list[float]:
    """Seconds from the start at which `requests` requests are due: a Poisson process of `rate` requests per second.

    Stretched so that the last one is due at `requests / rate`, as vLLM's benchmark does, so that runs with different
    seeds offer the same load.
    """
    source = random.Random(seed)
    due: list[float] = []
    now = 0.0
    for _ in range(requests):
        now += source.expovariate(rate)
        due.append(now)
    return [moment * requests / rate / now for moment in due]
