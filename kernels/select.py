"""Which version of an operation runs: by device, or the one that the environment forces."""

import os
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

ENVIRONMENT_VARIABLE = "LONGCAT_KERNELS"
MODES = ("reference", "cpu", "triton")

Version = TypeVar("Version", bound=Callable[..., object])


class KernelError(ValueError):
    """An operation was asked for something it cannot do; the message names the operation and the remedy."""


def select(operation: str, versions: Mapping[str, Version], device: torch.device) -> Version:
    """The version of `operation` to run on tensors of `device`.

    Without `LONGCAT_KERNELS` the processor takes `cpu`, every other device `triton`, and both take `reference` where
    there is no such version. `LONGCAT_KERNELS=cpu` also takes `reference` for operations that need no `cpu` version.

    Raises:
        KernelError: an unknown mode, `triton` forced on an operation without a Triton version, or `cpu` forced on
            tensors of another device.
    """
    forced = os.environ.get(ENVIRONMENT_VARIABLE)
    if not forced:
        preferred = "cpu" if device.type == "cpu" else "triton"
        return versions.get(preferred, versions["reference"])
    if forced not in MODES:
        raise KernelError(f"{ENVIRONMENT_VARIABLE}={forced}: unknown, choose one of {', '.join(MODES)}")
    if forced == "triton" and forced not in versions:
        raise KernelError(
            f"{ENVIRONMENT_VARIABLE}=triton: the operation '{operation}' has no Triton version in this release; "
            f"unset {ENVIRONMENT_VARIABLE} or set it to reference or cpu"
        )
    if forced == "cpu" and device.type != "cpu":
        raise KernelError(
            f"{ENVIRONMENT_VARIABLE}=cpu: '{operation}' was given tensors on {device}; unset {ENVIRONMENT_VARIABLE}"
        )
    return versions.get(forced, versions["reference"])
