"""What `auto` means for a device and a dtype on this machine, told without torch where it can be."""

from __future__ import annotations

from pathlib import Path

# Without one of these no driver of an accelerator is loaded: NVIDIA's, under WSL, AMD's.
DEVICE_NODES = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def has_cuda() -> bool:
    """Whether torch finds a CUDA device; it is asked only where there may be one."""
    if not any(Path(node).exists() for node in DEVICE_NODES):
        return False
    import torch

    return torch.cuda.is_available()


def resolve_device(name: str) -> str:
    """`auto` is cuda where there is one."""
    return ("cuda" if has_cuda() else "cpu") if name == "auto" else name


def resolve_dtype(name: str, device: str) -> str:
    """`auto` is bfloat16 on cuda and float32 elsewhere: processors without bfloat16 units are slower with it."""
    return ("bfloat16" if device == "cuda" else "float32") if name == "auto" else name
