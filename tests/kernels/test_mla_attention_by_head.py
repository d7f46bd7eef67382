"""Attention with one product of oneDNN a head: the reference's results, where it is chosen, and where it is not."""

import pytest
import torch

from longcat.kernels.linear import cpu as linear
from longcat.kernels.mla_attention import by_head, cpu, reference

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch is built without oneDNN")


def inputs(batch: int, tokens: int, positions: int, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        torch.randn(batch, tokens, heads, 12),
        torch.randn(batch, positions, heads, 12),
        torch.randn(batch, positions, heads, 8),
    )


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (2, 5, 9, 3), (1, 128, 128, 2), (2, 300, 431, 2), (1, 257, 257, 3), (1, 700, 1500, 1)]
)
@torch.no_grad()
def test_results_are_those_of_the_reference(shape: tuple[int, int, int, int]) -> None:
    q, k, v = inputs(*shape)
    expected = reference.mla_attention(q.double(), k.double(), v.double(), 0.3, None)
    torch.testing.assert_close(by_head.mla_attention(q, k, v, 0.3).double(), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_with_gaps_in_memory_are_taken() -> None:
    q, k, v = (x[:, :, ::2] for x in inputs(1, 70, 90, 4))
    expected = by_head.mla_attention(q.contiguous(), k.contiguous(), v.contiguous(), 1.0)
    assert torch.equal(by_head.mla_attention(q, k, v, 1.0), expected)


def test_it_is_for_many_queries_without_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "is_amd", lambda: True)
    q, k, _ = inputs(1, 300, 300, 1)
    assert not by_head.takes(q, k)
    with torch.no_grad():
        assert by_head.takes(q, k)
        assert not by_head.takes(q[:, :8], k)
        assert not by_head.takes(q.double(), k.double())
        monkeypatch.setattr(linear, "is_amd", lambda: False)
        assert not by_head.takes(q, k)


@torch.no_grad()
def test_the_processor_version_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "is_amd", lambda: True)
    q, k, v = inputs(1, 300, 300, 1)
    assert torch.equal(cpu.mla_attention(q, k, v, 0.5, None), by_head.mla_attention(q, k, v, 0.5))
