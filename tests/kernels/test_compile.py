"""Compiled: operations that a compiler would not make fast are a single node, which runs the version of the device."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch

from longcat.kernels.expert_mixture import expert_mixture
from longcat.kernels.mla_attention import document_bounds, mla_attention
from longcat.kernels.mla_paged_decode import mla_paged_decode
from tests.kernels.test_versions import CASES, Case, run

NODES = ("grouped_mlp", "mla_attention", "router", "cross_entropy", "linear_cross_entropy")
SMALL = [case for case in CASES if case.operation in NODES and sum(x.numel() for x in case.inputs) < 8000]


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile to one graph, without the slow code generation."""
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def recorded(operation: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record which versions of an operation are called."""
    calls: list[str] = []
    versions = import_module(f"longcat.kernels.{operation}").VERSIONS
    for name, version in list(versions.items()):

        def call(*args: Any, name: str = name, version: Callable[..., Any] = version) -> Any:
            calls.append(name)
            return version(*args)

        monkeypatch.setitem(versions, name, call)
    return calls


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_compiled_equals_eager_bitwise(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCAT_KERNELS", raising=False)
    eager = run(case, torch.float32)
    calls = recorded(case.operation, monkeypatch)
    graph = compiled(lambda *inputs: case.call(*(x * 1.0 for x in inputs)))
    for once, again in zip(eager, run(Case(case.name, graph, case.inputs), torch.float32), strict=True):
        assert torch.equal(once, again)
    assert set(calls) == {"cpu"}


def mixture_inputs() -> list[torch.Tensor]:
    torch.manual_seed(0)
    experts = torch.stack([torch.randperm(9)[:3] for _ in range(7)])
    return [torch.randn(7, 8), torch.rand(7, 3), experts, torch.randn(6, 8, 8), torch.randn(6, 8, 4)]


def test_the_experts_are_one_node_with_lengths_known_at_run_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCAT_KERNELS", raising=False)
    calls = recorded("expert_mixture", monkeypatch)
    results = []
    for function in (expert_mixture, compiled(expert_mixture)):
        inputs = [x.requires_grad_() if x.is_floating_point() else x for x in mixture_inputs()]
        y = function(*inputs)
        wanted = [x for x in inputs if x.requires_grad]
        results.append([y.detach(), *torch.autograd.grad(y.square().sum(), wanted)])
    for once, again in zip(*results, strict=True):
        assert torch.equal(once, again)
    assert set(calls) == {"cpu"}


def test_only_requested_gradients_are_computed() -> None:
    x, weights, experts, gate_up, down = mixture_inputs()
    gate_up.requires_grad_()
    y = compiled(expert_mixture)(x, weights, experts, gate_up, down)
    (grad,) = torch.autograd.grad(y.sum(), (gate_up,))
    assert grad.shape == gate_up.shape
    with torch.no_grad():
        assert not compiled(expert_mixture)(x, weights, experts, gate_up, down).requires_grad


def test_paged_decode_compiles_with_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    q, pages = torch.randn(2, 1, 3, 11), torch.randn(4, 16, 11)
    table, lengths = torch.tensor([[0, 2], [1, 3]]).int(), torch.tensor([20, 5]).int()
    monkeypatch.setenv("LONGCAT_KERNELS", "triton")
    calls = recorded("mla_paged_decode", monkeypatch)
    ours = compiled(mla_paged_decode)(q, pages, table, lengths, 7, 0.3)
    assert torch.equal(ours, mla_paged_decode(q, pages, table, lengths, 7, 0.3))
    assert calls == ["triton", "triton"]


def test_documents_and_other_lengths_do_not_break_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LONGCAT_KERNELS", raising=False)
    graph = compiled(lambda q, v, cu: mla_attention(q * 1.0, q, v, 0.3, cu))
    for tokens in (6, 9):
        q, v, cu = torch.randn(1, tokens, 1, 8), torch.randn(1, tokens, 1, 4), torch.tensor([0, 4, tokens])
        expected = mla_attention(q * 1.0, q, v, 0.3, cu)
        assert torch.equal(graph(q, v, cu), expected)
        assert torch.equal(graph(q, v, document_bounds(cu, 1, tokens)), expected)
