"""Rates of one core of this machine, measured in about a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch

from longcat.stages.plan.devices import CPU, Device

WIDTH = 1024  # matrices larger than the caches of a core
COPIED = 1 << 26  # bytes
REPEATS = 3


def measure_cpu() -> Device:
    """Matrix products in float32 and bfloat16 and copies, the best of a few, with torch's number of threads.

    Links are memory copies, since processes on one machine exchange through memory.
    """
    copied = torch.zeros(COPIED, dtype=torch.uint8)
    target = torch.empty_like(copied)
    copies = 2 * COPIED / _seconds(lambda: target.copy_(copied))
    return Device(
        name=CPU,
        memory=psutil.virtual_memory().total,
        float32=_product_rate(torch.float32, WIDTH),
        bfloat16=_product_rate(torch.bfloat16, WIDTH // 2),
        memory_bandwidth=copies,
        node_bandwidth=copies / 2,
        network_bandwidth=copies / 2,
        per_node=psutil.cpu_count(logical=False) or 1,
    )


def _product_rate(dtype: torch.dtype, width: int) -> float:
    """FLOP/s of products of square matrices."""
    a, b = torch.ones(2, width, width, dtype=dtype)
    return 2.0 * width**3 / _seconds(lambda: a @ b)


def _seconds(work: Callable[[], object]) -> float:
    """Shortest time of a few."""
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return min(taken)
