"""The order of rows: every version gives the reference's integers, and the device's version waits for the host once."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.kernels.expert_order import VERSIONS, reference, sort

CHOICES = {
    "mixed": [[2, 5, 0], [4, 3, 5], [0, 4, 2], [5, 4, 3]],
    "dense": [[1, 0], [2, 1], [0, 2]],
    "idle": [[3, 4], [5, 3]],
    "one expert": [[1]] * 5,
}


@pytest.mark.parametrize("version", [name for name in VERSIONS if name != "reference"])
@pytest.mark.parametrize("choice", CHOICES)
def test_versions_give_the_same_integers(version: str, choice: str) -> None:
    experts_TK = torch.tensor(CHOICES[choice])
    expected = reference.expert_order(experts_TK, 3)
    for field, ours, theirs in zip(expected._fields, VERSIONS[version](experts_TK, 3), expected, strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs), field


@pytest.mark.parametrize("version", VERSIONS)
def test_no_tokens_have_no_rows(version: str) -> None:
    order = VERSIONS[version](torch.empty(0, 4, dtype=torch.int64), 3)
    assert order.ends_N.tolist() == [0, 0, 0]
    assert order.bag_starts_T1.tolist() == [0]
    assert order.slot_R.numel() == order.bag_R.numel() == 0
    assert order.row_TK.shape == (0, 4)


class Waits(TorchDispatchMode):
    """Counts the calls after which the host knows something that the device computed."""

    WAITING = ("_local_scalar_dense", "nonzero", "bincount", "masked_select", "index.Tensor")

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen += [name for name in self.WAITING if name in str(function)]
        return function(*args, **(kwargs or {}))


def test_the_device_waits_once() -> None:
    with Waits() as ours:
        sort.expert_order(torch.tensor(CHOICES["mixed"]), 3)
    with Waits() as plain:
        reference.expert_order(torch.tensor(CHOICES["mixed"]), 3)
    assert ours.seen == ["_local_scalar_dense"]
    assert len(plain.seen) > 1
