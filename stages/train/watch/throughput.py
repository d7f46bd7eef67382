"""Speed of a run: tokens per second, model FLOPs utilisation (MFU), memory.

MFU is the model's FLOPs divided by the peak of the devices in the same time (Chowdhery et al. 2022, PaLM, appendix B).
Only the experts actually used by the step's tokens are counted, and attention within documents only, so fewer experts
or shorter documents do not look like a faster machine.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from longcat.model.accounting import count, training_flops
from longcat.model.config import ModelConfig

TERA = 1e12
CPU_SIZE, CUDA_SIZE = 512, 4096
MEASURED_SECONDS = 0.25

# Dense peaks in TFLOP/s by the name that torch gives a device: bfloat16 tensor cores, float32 without them (torch's
# default). From the makers' data sheets: NVIDIA H100 (SXM, PCIe, NVL), H200, HGX B200, A100, L40S, L4, A10 and the
# Ada and Ampere (GA102) architecture papers, the latter two at float32 accumulation; AMD CDNA 3 paper. Figures that
# the sheets give with sparsity are halved.
PEAK_TFLOPS: tuple[tuple[str, float, float], ...] = (
    (r"H100.*PCIe", 756, 51),
    (r"H100.*NVL", 835, 60),
    (r"H200.*NVL", 835, 60),
    (r"H100|H200|GH200", 989.5, 67),
    (r"B200", 2250, 75),
    (r"A100", 312, 19.5),
    (r"L40S", 362, 91.6),
    (r"L4", 121, 30.3),
    (r"A10", 125, 31.2),
    (r"RTX 4090", 165.2, 82.6),
    (r"RTX 3090", 71, 35.6),
    (r"MI300X", 1307.4, 163.4),
)


@dataclass(frozen=True)
class Timing:
    """Speed of one step; `mfu` is None if the peak is unknown."""

    seconds: float
    tokens_per_second: float
    mfu: float | None
    memory_bytes: int


class Throughput:
    """Converts the duration of a step to figures. `devices` share the batch; `peak` is FLOP/s per device."""

    def __init__(
        self, config: ModelConfig, *, sequence_length: int, peak: float | None, devices: int, device: torch.device
    ) -> None:
        self.config, self.peak, self.devices, self.device = config, peak, devices, device
        self.sizes = count(config, sequence_length)
        self.process = psutil.Process()

    def timing(
        self, seconds: float, tokens: int, active_experts: Sequence[float], *, mtp: bool, attention: float | None = None
    ) -> Timing:
        """Figures of a step of `tokens` tokens that took `seconds`; `attention`: see `training_flops`."""
        speed = tokens / seconds
        mfu = None
        if self.peak:
            flops = training_flops(self.sizes, self.config, active_experts, mtp=mtp, attention=attention)
            mfu = speed * flops / (self.peak * self.devices)
        return Timing(seconds, speed, mfu, self.memory())

    def memory(self) -> int:
        """Bytes: peak allocation of the accelerator, or resident memory of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return int(self.process.memory_info().rss)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of one device in matrix products of `dtype`: from the table by device name, else measured."""
    if device.type == "cuda":
        known = known_peak(torch.cuda.get_device_name(device), dtype)
        if known is not None:
            return known
    return measured_peak(device, dtype)


def known_peak(name: str, dtype: torch.dtype) -> float | None:
    """FLOP/s from the data sheet of the device `name`; None if it is not in the table."""
    for pattern, bfloat16, float32 in PEAK_TFLOPS:
        if re.search(rf"\b(?:{pattern})\b", name):
            return (bfloat16 if dtype == torch.bfloat16 else float32) * TERA
    return None


def measured_peak(device: torch.device, dtype: torch.dtype, seconds: float = MEASURED_SECONDS) -> float:
    """FLOP/s in square matrix products of `dtype`, the best of those that run for `seconds`.

    A CPU is measured by the CPU time of one thread, times the threads of training, so that other processes do not
    affect it.
    """
    if device.type == "cuda":

        def finish() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return _best_product(device, dtype, CUDA_SIZE, finish, seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return threads * _best_product(device, dtype, CPU_SIZE, time.thread_time, seconds)
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def _best_product(
    device: torch.device, dtype: torch.dtype, size: int, clock: Callable[[], float], seconds: float
) -> float:
    # Constant matrices, to keep the random state of the run.
    x_NN = torch.full((size, size), 0.5, device=device, dtype=dtype)
    best, stop = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < stop:
        began = clock()
        torch.mm(x_NN, x_NN)
        best = min(best, clock() - began)
    return 2 * size**3 / best
