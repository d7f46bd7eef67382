"""The device and the dtype that a configuration means on this machine; torch is imported only where it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from longcat.pipeline.errors import ConfigError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16"]

# Without one of these no accelerator driver is loaded: NVIDIA's, under WSL, AMD's.
DEVICE_NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def has_cuda() -> bool:
    """Whether torch finds a CUDA device; torch is imported only if a driver is loaded."""
    if not any(Path(node).exists() for node in DEVICE_NODES):
        return False
    import torch

    return torch.cuda.is_available()


def resolve_device(name: str) -> str:
    """Resolve `auto` to cuda if available."""
    return ("cuda" if has_cuda() else "cpu") if name == "auto" else name


def resolve_dtype(name: str, device: str) -> str:
    """Resolve `auto` to bfloat16 on cuda and float32 elsewhere: CPUs without bfloat16 units are slower with it."""
    return ("bfloat16" if device == "cuda" else "float32") if name == "auto" else name


def choose_device(name: str) -> torch.device:
    """The device that `name` means.

    Raises:
        ConfigError: the name is unknown, or cuda was requested but is not available.
    """
    import torch

    _check(name, "device", get_args(Device))
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device = cuda, but torch finds no CUDA device", hint="use device cpu, see `longcat doctor`")
    return torch.device(resolve_device(name))


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype that `name` means on `device`.

    Raises:
        ConfigError: the name is unknown.
    """
    import torch

    _check(name, "dtype", get_args(Dtype))
    return torch.bfloat16 if resolve_dtype(name, device.type) == "bfloat16" else torch.float32


def _check(name: str, what: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}", hint=f"one of {', '.join(known)}")
