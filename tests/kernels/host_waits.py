"""Detects operations that make the host wait for a device, without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Each of these calls copies a value from the device to the host or from the host to the device.
WAITING = (
    *("_local_scalar_dense", "nonzero", "masked_select", "bincount", "unique", "repeat_interleave", "is_nonzero"),
    *("equal.default", "lift_fresh", "index.Tensor", "index_put"),
)
METHODS = ("tolist", "numpy", "cpu", "cuda", "item", "__int__", "__float__", "__bool__", "__index__", "__array__")


class HostWaitError(AssertionError):
    """The host would wait for the device."""


class _Refuse(TorchDispatchMode):
    launching = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        # The number of results is known, or the index is made of integers: nothing has to be counted.
        known = "output_size" in (kwargs or {}) or not _indexes_by_mask(args)
        if not self.launching and any(word in name for word in WAITING) and not ("inde" in name and known):
            raise HostWaitError(name)
        return function(*args, **(kwargs or {}))


def _indexes_by_mask(args: Any) -> bool:
    return any(
        isinstance(index, torch.Tensor) and index.dtype == torch.bool
        for arg in args
        if isinstance(arg, list | tuple)
        for index in arg
    )


@contextmanager
def no_host_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raise HostWaitError if code outside the interpreter reads a tensor on the host, or makes one from a list."""
    from triton.runtime.interpreter import GridExecutor

    mode = _Refuse()
    launch = GridExecutor.__call__

    def launched(self: Any, *args: Any, **kwargs: Any) -> Any:
        mode.launching = True
        try:
            return launch(self, *args, **kwargs)
        finally:
            mode.launching = False

    def refused(name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not mode.launching:
                raise HostWaitError(f"Tensor.{name}")
            return original(self, *args, **kwargs)

        return method

    with monkeypatch.context() as patch:
        patch.setattr(GridExecutor, "__call__", launched)
        for name in METHODS:
            patch.setattr(torch.Tensor, name, refused(name))
        with mode:
            yield
