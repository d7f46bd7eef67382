"""Fixtures of kernel tests: one thread, deterministic algorithms, and uninitialised memory filled with NaN."""

from collections.abc import Iterator

import pytest
import torch

from tests.kernels.device import DEVICE

if DEVICE.type != "cpu":
    torch.set_default_device(DEVICE)  # before the import of test modules, which create their cases


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """With deterministic algorithms `torch.empty` is filled with NaN, so unwritten elements are visible."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
