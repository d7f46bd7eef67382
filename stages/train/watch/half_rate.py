"""The rate of bfloat16 on this processor, by measurement, and what it means for a run.

Instruction sets do not tell it: a library may lack a kernel for a unit that the processor has, and emulation is slower
than float32 by a factor that depends on both.
"""

from __future__ import annotations

import logging
from functools import lru_cache

import torch

from longcat.stages.train.watch.throughput import measured_peak

SECONDS = 0.05
# Casts and the optimizer take a share of a step, so that a small gain of products alone is none of the step.
WORTHWHILE = 1.3


@lru_cache(maxsize=1)
def half_rate() -> float:
    """Operations per second of bfloat16 products over those of float32 products on the CPU; measured once a process."""
    cpu = torch.device("cpu")
    return measured_peak(cpu, torch.bfloat16, SECONDS) / measured_peak(cpu, torch.float32, SECONDS)


def tell_half_rate(dtype: torch.dtype, device: torch.device, logger: logging.Logger) -> None:
    """Log that `dtype` is the slower one on this CPU.

    The dtype is never changed: it determines the bits of the result, which must not depend on a measurement.
    """
    if device.type != "cpu":
        return
    rate = half_rate()
    if dtype == torch.bfloat16 and rate < 1:
        logger.warning("bfloat16 products run at %.2f times the rate of float32 here: dtype=float32 is faster", rate)
    if dtype == torch.float32 and rate >= WORTHWHILE:
        logger.info("bfloat16 products run at %.1f times the rate of float32 here: dtype=bfloat16 is faster", rate)
