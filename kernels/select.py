"""Selection of an operation's version: by device, or forced by the environment."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

import torch

ENVIRONMENT_VARIABLE = "LONGCAT_KERNELS"
MODES = ("reference", "cpu", "triton", "torch")
PREFERRED = {"cpu": "cpu", "cuda": "triton"}  # ROCm devices are called cuda too

Version = TypeVar("Version", bound=Callable[..., object])


class KernelError(ValueError):
    """Unsupported use of an operation; the message names the operation and the remedy."""


def select(operation: str, versions: Mapping[str, Version], device: torch.device) -> Version:
    """The version of `operation` to run on tensors of `device`.

    Without `LONGCAT_KERNELS`, CPUs use `cpu`, GPUs `triton`, and operations without such a version, or other devices,
    `reference`. The variable holds a mode for all operations, modes for some, or both, separated by
    commas: `triton`, `grouped_mlp=torch`, `triton,mla_attention=torch`. With a mode for all operations, those without
    such a version use `reference`, except that `triton` and `torch` must exist if an operation is named. While
    torch.compile traces, the version is always `reference`, because a compiler can fuse plain operations. Operations
    that it cannot make fast are nodes of its graph (`kernels.opaque`), which call this function when they run.

    Raises:
        KernelError: an unknown mode, a version forced on one operation that does not have it, or a version that cannot
            run on tensors of `device`.
    """
    if torch.compiler.is_compiling():
        return versions["reference"]
    general, named = _forced(os.environ.get(ENVIRONMENT_VARIABLE, ""))
    forced = named.get(operation, general)
    if forced is None:
        return versions.get(PREFERRED.get(device.type, "reference"), versions["reference"])
    if operation in named and forced not in versions:
        raise KernelError(
            f"{ENVIRONMENT_VARIABLE}: the operation '{operation}' has no version {forced}, only {', '.join(versions)}"
        )
    if forced == "cpu" and device.type != "cpu":
        raise KernelError(
            f"{ENVIRONMENT_VARIABLE}=cpu: '{operation}' was given tensors on {device}; unset {ENVIRONMENT_VARIABLE}"
        )
    if forced == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise KernelError(
            f"{ENVIRONMENT_VARIABLE}=triton: '{operation}' was given tensors on the CPU, which only Triton's "
            f"interpreter runs; set TRITON_INTERPRET=1, or unset {ENVIRONMENT_VARIABLE}"
        )
    return versions.get(forced, versions["reference"])


def deferred(module: str, function: str) -> Callable[..., Any]:
    """A version in `module`, which is imported on the first call, so that unused dependencies need not be installed."""

    def version(*args: Any, **kwargs: Any) -> Any:
        try:
            return getattr(import_module(module), function)(*args, **kwargs)
        except ModuleNotFoundError as error:
            if error.name != "triton":
                raise
            raise KernelError(
                f"{module} needs Triton, which is not installed: pip install 'longcat-cli[gpu]', or set "
                f"{ENVIRONMENT_VARIABLE}=reference"
            ) from None

    return version


@lru_cache(maxsize=16)
def _forced(setting: str) -> tuple[str | None, Mapping[str, str]]:
    """(mode of all operations or None, modes by operation) of the environment variable's text."""
    general: str | None = None
    named: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        operation, _, mode = part.rpartition("=")
        if mode not in MODES:
            raise KernelError(
                f"{ENVIRONMENT_VARIABLE}={setting}: unknown mode {mode}, choose one of {', '.join(MODES)}"
            )
        if operation:
            named[operation] = mode
        else:
            general = mode
    return general, named
