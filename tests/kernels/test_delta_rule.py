"""Gated delta rule: its equation written out, chunks against tokens in float64, documents, states and refusals."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from longcat.kernels.delta_rule import chunks, delta_rule
from longcat.kernels.select import KernelError


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def inputs_of(tokens: int, batch: int = 2, heads: int = 2, width: int = 6, values: int = 5) -> list[torch.Tensor]:
    """q, k, v, g, erase and write; some channels forget nearly all, others nearly nothing."""
    shape = (batch, tokens, heads)
    q, k = (F.normalize(randn(*shape, width), dim=-1) for _ in range(2))
    g = -20 * torch.rand(*shape, width, dtype=torch.float64) ** 6
    return [q, k, randn(*shape, values), g, randn(*shape, width).sigmoid(), randn(*shape, values).sigmoid()]


def by_equation(inputs: list[torch.Tensor], scale: float, state_BHKV: torch.Tensor, row: int, head: int) -> Any:
    """The equation of one head with full matrices: outputs [T, V] and the last state [K, V]."""
    q, k, v, g, erase, write = (x[row, :, head] for x in inputs)
    state, outputs = state_BHKV[row, head], []
    for t in range(q.shape[0]):
        forget = torch.diag(g[t].exp())
        erasing = torch.eye(k.shape[1], dtype=k.dtype) - torch.outer(k[t], erase[t] * k[t])
        state = erasing @ forget @ state + torch.outer(k[t], write[t] * v[t])
        outputs.append(scale * state.T @ q[t])
    return torch.stack(outputs), state


@pytest.mark.parametrize("version", ["reference", "cpu"])
def test_equation(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", version)
    inputs, state = inputs_of(9), randn(2, 2, 6, 5)
    o, last = delta_rule(*inputs, scale=0.3, state_BHKV=state)
    for row in range(2):
        for head in range(2):
            expected = by_equation(inputs, 0.3, state, row, head)
            torch.testing.assert_close(o[row, :, head], expected[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(last[row, head], expected[1], rtol=1e-12, atol=1e-12)


def results(inputs: list[torch.Tensor], **given: Any) -> list[torch.Tensor]:
    """Outputs, final states, and gradients of both in a fixed direction."""
    given = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in given.items()}
    inputs = [x.requires_grad_() for x in inputs]
    found = list(delta_rule(*inputs, **given))
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in found]
    wanted = [*inputs, *(x for x in given.values() if x.requires_grad)]
    return [*(x.detach() for x in found), *torch.autograd.grad(found, wanted, directions)]


@pytest.mark.parametrize("tokens", [2, 33, chunks.ChunkRule.segment + 70])
@pytest.mark.parametrize("documents", [False, True])
def test_chunks_equal_tokens(tokens: int, documents: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-12 in float64 and 2e-6 in float32, outputs and gradients."""
    inputs = inputs_of(tokens)
    bounds = sorted({0, 1, *(torch.randperm(2 * tokens)[: tokens // 8].tolist()), 2 * tokens})
    given = {"cu_seqlens": torch.tensor(bounds)} if documents else {"state_BHKV": randn(2, 2, 6, 5)}
    monkeypatch.setenv("LONGCAT_KERNELS", "reference")
    expected = results([x.clone() for x in inputs], **{name: x.clone() for name, x in given.items()})
    monkeypatch.setenv("LONGCAT_KERNELS", "cpu")
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        of_type = {name: x.to(dtype) if x.is_floating_point() else x for name, x in given.items()}
        for exact, found in zip(expected, results([x.detach().to(dtype) for x in inputs], **of_type), strict=True):
            assert found.dtype == dtype
            assert (found.double() - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("decay", [0.0, -20.0, -700.0])
def test_extreme_decays_are_finite(decay: float) -> None:
    """Sums of log decays of a chunk reach far below what exp can represent."""
    inputs = [x.detach().float() for x in inputs_of(70)]
    inputs[3] = torch.full_like(inputs[3], decay)
    for found in results(inputs):
        assert found.isfinite().all()


@pytest.mark.parametrize("version", ["reference", "cpu"])
def test_documents_equal_rows_of_their_own(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", version)
    inputs, bounds = inputs_of(50), [0, 7, 50, 51, 93, 100]
    o, last = delta_rule(*inputs, cu_seqlens=torch.tensor(bounds))
    for begin, end in pairwise(bounds):
        alone = delta_rule(*(x.flatten(0, 1)[None, begin:end] for x in inputs))
        torch.testing.assert_close(o.flatten(0, 1)[begin:end], alone.o_BTHV[0], rtol=1e-12, atol=1e-12)
        if end % 50 == 0:
            torch.testing.assert_close(last[end // 50 - 1], alone.state_BHKV[0], rtol=1e-12, atol=1e-12)


def test_a_row_continues_from_its_state() -> None:
    inputs = inputs_of(40)
    whole = delta_rule(*inputs)
    state, outputs = None, []
    for part in (slice(0, 1), slice(1, 30), slice(30, 31), slice(31, 40)):
        o, state = delta_rule(*(x[:, part] for x in inputs), state_BHKV=state)
        outputs.append(o)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole.o_BTHV, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, whole.state_BHKV, rtol=1e-12, atol=1e-12)


def test_no_tokens_leave_the_state() -> None:
    state = randn(2, 2, 6, 5)
    o, last = delta_rule(*inputs_of(0), state_BHKV=state)
    assert o.shape == (2, 0, 2, 5)
    assert torch.equal(last, state)


def test_gates_of_one_column_count_for_all() -> None:
    q, k, v, g, erase, write = inputs_of(20)
    narrow = [x[..., :1] for x in (g, erase, write)]
    wide = [x.expand(*like.shape) for x, like in zip(narrow, (k, k, v), strict=True)]
    for first, second in zip(delta_rule(q, k, v, *narrow), delta_rule(q, k, v, *wide), strict=True):
        assert torch.equal(first, second)
    ones = torch.ones_like(g[..., :1])
    assert torch.equal(delta_rule(q, k, v, g).o_BTHV, delta_rule(q, k, v, g, ones, ones).o_BTHV)


def test_vectors_at_the_root_of_a_gate_equal_the_gate() -> None:
    """FG2-GDN with a scalar gate is KDA."""
    q, k, v, g, *_ = inputs_of(70)
    gate = randn(2, 70, 2, 1).sigmoid()
    fine = delta_rule(q, gate.sqrt() * k, gate.sqrt() * v, g)
    torch.testing.assert_close(fine, delta_rule(q, k, v, g, gate, gate), rtol=1e-12, atol=1e-12)


def test_half_precision_keeps_its_state_in_float32() -> None:
    o, state = delta_rule(*(x.bfloat16() for x in inputs_of(5)))
    assert (o.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_wrong_inputs_are_refused() -> None:
    q, k, v, g, *_ = inputs_of(4)
    with pytest.raises(KernelError, match="give a state or cu_seqlens, not both"):
        delta_rule(q, k, v, g, state_BHKV=randn(2, 2, 6, 5), cu_seqlens=torch.tensor([0, 8]))
    with pytest.raises(KernelError, match=r"the state has the shape \(2, 2, 5, 6\), these rows need \(2, 2, 6, 5\)"):
        delta_rule(q, k, v, g, state_BHKV=randn(2, 2, 5, 6))
    with pytest.raises(KernelError, match="differ in their tokens, heads or widths"):
        delta_rule(q, k[:, :3], v, g)
    with pytest.raises(KernelError, match="must rise from 0 to 8"):
        delta_rule(q, k, v, g, cu_seqlens=torch.tensor([0, 7]))
