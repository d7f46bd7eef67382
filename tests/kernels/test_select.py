"""Selection of a version, and the fast path of each version."""

import sys

import pytest
import torch
import torch.nn.functional as F

from longcat.kernels.cross_entropy import cross_entropy
from longcat.kernels.expert_mixture import expert_mixture
from longcat.kernels.grouped_mlp import grouped_mlp
from longcat.kernels.linear import linear
from longcat.kernels.mla_attention import mla_attention
from longcat.kernels.rope import rope
from longcat.kernels.select import KernelError, deferred, select

CPU, META = torch.device("cpu"), torch.device("meta")
BOTH = {"reference": lambda: "reference", "cpu": lambda: "cpu"}
ONE = {"reference": lambda: "reference"}


def test_device_chooses_unless_the_environment_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCAT_KERNELS", raising=False)
    assert select("op", BOTH, CPU)() == "cpu"
    assert select("op", ONE, CPU)() == "reference"
    assert select("op", BOTH | {"triton": lambda: "triton"}, META)() == "reference"
    assert select("op", BOTH | {"triton": lambda: "triton"}, torch.device("cuda"))() == "triton"
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    assert select("op", BOTH, CPU)() == "reference"
    monkeypatch.setenv("LONGCAT_KERNELS", "cpu")
    assert select("op", ONE, CPU)() == "reference"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("op=reference", "reference"),
        ("cpu,op=reference", "reference"),
        ("cpu, other=triton", "cpu"),
        ("torch", "reference"),
    ],
)
def test_single_operations_can_be_forced(setting: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    assert select("op", BOTH, CPU)() == expected


@pytest.mark.parametrize(
    ("setting", "device", "message"),
    [
        ("op=triton", CPU, "'op' has no version triton, only reference, cpu"),
        ("cuda", CPU, "unknown mode cuda, choose one of"),
        ("cpu", META, "tensors on meta"),
    ],
)
def test_an_invalid_setting_is_an_error(
    setting: str, device: torch.device, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", setting)
    with pytest.raises(KernelError, match=message):
        select("op", BOTH, device)


def test_triton_on_the_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(KernelError, match="set TRITON_INTERPRET=1"):
        select("op", {"reference": len, "triton": len}, CPU)


def test_a_missing_triton_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "longcat.kernels.rms_norm.triton", raising=False)
    with pytest.raises(KernelError, match="needs Triton, which is not installed"):
        deferred("longcat.kernels.rms_norm.triton", "rms_norm")()


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Record the calls of a function of torch.nn.functional."""
    calls: list[str] = []
    original = getattr(F, name)

    def recorded(*args: object, **kwargs: object) -> object:
        calls.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(F, name, recorded)
    return calls


@pytest.mark.parametrize(("width", "grouped"), [(8, True), (6, False)])
def test_grouped_products_are_used_for_aligned_rows(width: int, grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "grouped_mm")
    ends = torch.tensor([1, 3], dtype=torch.int32)
    grouped_mlp(torch.ones(3, width), torch.ones(2, 16, width), torch.ones(2, width, 8), ends)
    assert bool(calls) == grouped


@pytest.mark.parametrize(("dtype", "flash"), [(torch.float32, False), (torch.bfloat16, True)])
def test_half_precision_uses_flash_attention(dtype: torch.dtype, flash: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, "scaled_dot_product_attention")
    q, v = torch.ones(1, 64, 1, 8, dtype=dtype), torch.ones(1, 64, 1, 4, dtype=dtype)
    mla_attention(q, q, v, 1.0)
    assert bool(calls) == flash


@pytest.mark.parametrize(("vendor", "rows", "taken"), [(True, 40, True), (True, 3, True), (False, 40, False)])
def test_amd_cpus_use_their_own_products(vendor: bool, rows: int, taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.kernels.linear.cpu.is_amd", lambda: vendor)
    calls = counted(monkeypatch, "linear")
    linear(torch.ones(rows, 8), torch.ones(4, 8))
    assert bool(calls) != taken


@pytest.mark.parametrize("outputs", [40, 41, 12])
@pytest.mark.parametrize("rows", [1, 2, 4, 9, 33])
def test_products_without_gradient_are_plain_products(rows: int, outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.kernels.linear.cpu.is_amd", lambda: True)
    torch.manual_seed(0)
    x, weight = torch.randn(1, rows, 24), torch.randn(outputs, 24)
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("tokens", [1, 5, 16, 17])
def test_experts_of_few_tokens_equal_experts_of_many(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    experts = torch.stack([torch.randperm(9)[:3] for _ in range(tokens)])
    inputs = torch.randn(tokens, 8), torch.rand(tokens, 3), experts, torch.randn(6, 8, 8), torch.randn(6, 8, 4)
    with torch.no_grad():
        result = expert_mixture(*inputs)
        monkeypatch.setenv("LONGCAT_KERNELS", "reference")
        torch.testing.assert_close(result, expert_mixture(*inputs), rtol=1e-5, atol=1e-5)


def test_angles_changed_in_place_are_used() -> None:
    x, angles = torch.ones(1, 2, 1, 4), torch.zeros(2, 2, dtype=torch.float64)
    assert torch.equal(rope(x, angles), x)
    angles.fill_(torch.pi)
    torch.testing.assert_close(rope(x, angles), -x)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(KernelError, match="the last end is 4, but there are 3 rows"):
        grouped_mlp(torch.ones(3, 8), torch.ones(1, 16, 8), torch.ones(1, 8, 8), torch.tensor([4], dtype=torch.int32))
    with pytest.raises(KernelError, match="needs gate_up"):
        grouped_mlp(torch.ones(3, 8), torch.ones(1, 8, 8), torch.ones(1, 8, 8), torch.tensor([3], dtype=torch.int32))
    with pytest.raises(KernelError, match="needs angles"):
        rope(torch.ones(1, 3, 1, 4), torch.zeros(2, 2))
    x = torch.ones(1, 3, 1, 4)
    with pytest.raises(KernelError, match="3 queries cannot be the last of 2 keys"):
        mla_attention(x, x[:, :2], x[:, :2], 1.0)
    with pytest.raises(KernelError, match="as many queries as keys"):
        mla_attention(x[:, :2], x, x, 1.0, torch.tensor([0, 3]))


def test_targets_outside_the_vocabulary_are_refused() -> None:
    for target in (-1, 5):
        with pytest.raises(RuntimeError, match="out of bounds"):
            cross_entropy(torch.zeros(1, 5), torch.tensor([target]))
