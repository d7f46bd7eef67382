"""GPUs that kernels are compiled for, and their resource limits."""

from dataclasses import dataclass
from functools import lru_cache

import torch


@dataclass(frozen=True)
class Chip:
    """Limits of one architecture: `shared` in bytes per program, `registers` per thread, `warp` in threads.

    tensor_memory: columns of tcgen05 accumulator memory, zero if none.
    """

    name: str
    backend: str
    architecture: int | str
    warp: int
    shared: int
    registers: int
    tensor_memory: int = 0


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("sm_90", "cuda", 90, 32, 227 << 10, 255),
        Chip("sm_100", "cuda", 100, 32, 227 << 10, 255, 512),
        Chip("gfx942", "hip", "gfx942", 64, 64 << 10, 512),
    )
}


@lru_cache(maxsize=16)
def multiprocessors(device: torch.device) -> int:
    """Number of multiprocessors of `device`; CPUs, for the interpreter, get the number of an H100."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@lru_cache(maxsize=16)
def chip_of(device: torch.device) -> Chip:
    """Chip whose tiles are used for `device`: its own, or the closest one that kernels are compiled for.

    CPUs, for the interpreter, get those of `sm_90`; older GPUs with less shared memory get those of `gfx942`, which
    need least.
    """
    if device.type != "cuda":
        return CHIPS["sm_90"]
    if torch.version.hip:
        return CHIPS["gfx942"]
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 10:
        return CHIPS["sm_100"]
    return CHIPS["sm_90"] if major == 9 else CHIPS["gfx942"]
