"""Fixtures of kernel tests: one thread, deterministic algorithms, and uninitialised memory that holds NaN."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """With deterministic algorithms torch fills what `torch.empty` returns with NaN, so an unwritten place shows."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
