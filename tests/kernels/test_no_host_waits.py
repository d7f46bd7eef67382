"""No Triton operation makes the host wait for the device, forward or backward: CUDA graphs could not capture it."""

import pytest
import torch

from longcat.kernels.expert_mixture import expert_mixture
from longcat.kernels.expert_order import VERSIONS as ORDERS
from longcat.kernels.mla_attention.documents import _spans
from longcat.kernels.mla_paged_decode import mla_paged_decode
from tests.kernels.host_waits import HostWaitError, no_host_waits
from tests.kernels.test_versions import CASES, Case, forced

pytest.importorskip("triton")


@pytest.mark.parametrize(("case", "setting"), forced("triton", CASES))
def test_operations_do_not_wait(case: Case, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    inputs = [x.float().requires_grad_() for x in case.inputs]
    if case.name.startswith("mla_attention") and not case.name.endswith("None)"):
        case.call(*inputs)  # finds the documents of the batch
    with no_host_waits(monkeypatch):
        output = case.call(*inputs)
        torch.autograd.grad(output, inputs, torch.ones_like(output))


def test_the_experts_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    experts = torch.stack([torch.randperm(9)[:3] for _ in range(7)])
    tensors = [torch.randn(7, 8), torch.rand(7, 3), torch.randn(6, 8, 8), torch.randn(6, 8, 4)]
    x, weights, gate_up, down = inputs = [x.requires_grad_() for x in tensors]
    direction = torch.randn(7, 8)
    with no_host_waits(monkeypatch):
        torch.autograd.grad(expert_mixture(x, weights, experts, gate_up, down), inputs, direction)


def test_paged_decode_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    monkeypatch.setattr("longcat.kernels.mla_paged_decode._check_values", lambda *tensors: None)  # only of CPUs
    q_BTHE, pages_PLE = torch.randn(2, 1, 3, 11), torch.randn(4, 16, 11)
    table_BM, lengths_B = torch.tensor([[0, 2], [1, 3]]).int(), torch.tensor([20, 5]).int()
    with no_host_waits(monkeypatch):
        mla_paged_decode(q_BTHE, pages_PLE, table_BM, lengths_B, 7, 0.3)


def test_document_bounds_on_the_device_are_processed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cu_seqlens = torch.tensor([0, 3, 9])
    with no_host_waits(monkeypatch):
        _spans(cu_seqlens, 1, 9)


WAITS = {
    "item": lambda x: x[0].item(),
    "int": lambda x: int(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "list": lambda x: x.tolist(),
    "copy": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "tensor of a list": lambda x: torch.tensor([1, 2], device=x.device),
    "counted rows": lambda x: ORDERS["reference"](x.long().view(3, 1), 3),
}


@pytest.mark.parametrize("wait", WAITS)
def test_waiting_is_detected(wait: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3)
    with pytest.raises(HostWaitError), no_host_waits(monkeypatch):
        WAITS[wait](x)
