"""Reference implementations compared with independent definitions, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from longcat.kernels.cross_entropy.reference import cross_entropy
from longcat.kernels.expert_order.reference import expert_order
from longcat.kernels.grouped_mlp.reference import grouped_mlp
from longcat.kernels.mla_attention import document_bounds
from longcat.kernels.mla_attention.reference import mla_attention
from longcat.kernels.rms_norm.reference import rms_norm
from longcat.kernels.rope.reference import rope
from longcat.kernels.short_convolution import short_convolution


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_rms_norm_equals_torch() -> None:
    x, weight = randn(4, 7), randn(7)
    torch.testing.assert_close(rms_norm(x, weight, 1e-3), F.rms_norm(x, (7,), weight, 1e-3))


def test_rope_rotates_adjacent_pairs() -> None:
    x = torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]], dtype=torch.float64)
    turned = rope(x, torch.tensor([[math.pi / 6, math.pi / 2]], dtype=torch.float64))
    expected = torch.tensor([math.cos(math.pi / 6), 0.5, -1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(turned.flatten(), expected)


def test_rope_makes_scores_depend_only_on_distance() -> None:
    q, k = randn(1, 1, 1, 8), randn(1, 1, 1, 8)
    step = randn(4)
    scores = [(rope(q, (step * (5 + d))[None]) * rope(k, (step * d)[None])).sum() for d in (0, 3, 11)]
    torch.testing.assert_close(scores[0], scores[1])
    torch.testing.assert_close(scores[0], scores[2])


def test_grouped_mlp_is_swiglu_of_each_row_by_its_expert() -> None:
    rows, gate_up, down = randn(5, 3), randn(3, 8, 3), randn(3, 3, 4)
    result = grouped_mlp(rows, gate_up, down, torch.tensor([2, 2, 5], dtype=torch.int32))
    for row, expert in enumerate([0, 0, 2, 2, 2]):
        gate, up = gate_up[expert, :4] @ rows[row], gate_up[expert, 4:] @ rows[row]
        torch.testing.assert_close(result[row], down[expert] @ (gate * torch.sigmoid(gate) * up))


def test_order_sorts_by_expert_and_drops_zero_computation_slots() -> None:
    order = expert_order(torch.tensor([[2, 5, 0], [4, 3, 5], [0, 4, 2]]), num_experts=3)
    assert order.slot_R.tolist() == [2, 6, 0, 8]
    assert order.token_R.tolist() == [0, 2, 0, 2]
    assert order.ends_N.tolist() == [2, 2, 4]
    assert order.row_TK.tolist() == [[2, -1, 0], [-1, -1, -1], [1, -1, 3]]
    assert order.bag_R.tolist() == [2, 0, 1, 3]
    assert order.bag_starts_T1.tolist() == [0, 2, 2, 4]


def test_attention_is_causal_softmax_attention() -> None:
    q, k, v = randn(2, 6, 3, 5), randn(2, 6, 3, 5), randn(2, 6, 3, 4)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, scale=0.7
        ).transpose(1, 2)
    torch.testing.assert_close(mla_attention(q, k, v, 0.7, None), expected)
    torch.testing.assert_close(mla_attention(q[:, 4:], k, v, 0.7, None), expected[:, 4:])


def test_attention_of_documents_equals_attention_of_each_document() -> None:
    q, k, v = randn(1, 9, 2, 5), randn(1, 9, 2, 5), randn(1, 9, 2, 4)
    alone = [mla_attention(*(x[:, a:b] for x in (q, k, v)), 0.7, None) for a, b in ((0, 2), (2, 3), (3, 9))]
    torch.testing.assert_close(
        mla_attention(q, k, v, 0.7, document_bounds(torch.tensor([0, 2, 3, 9]), 1, 9)), torch.cat(alone, dim=1)
    )


def test_cross_entropy_equals_torch() -> None:
    logits, targets = randn(5, 9), torch.tensor([3, -100, 0, 8, -100])
    loss, z, counted = cross_entropy(logits, targets, -100, 0.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, reduction="sum"))
    assert z.item() == 0.0
    assert counted.item() == 3


def test_z_loss_is_the_square_of_the_log_of_the_sum() -> None:
    logits, targets = randn(5, 9), torch.tensor([3, -100, 0, 8, -100])
    total, z, _ = cross_entropy(logits, targets, -100, 0.25)
    torch.testing.assert_close(z, 0.25 * sum(logits[row].exp().sum().log() ** 2 for row in (0, 2, 3)))
    torch.testing.assert_close(total - z, F.cross_entropy(logits, targets, reduction="sum"))


@pytest.mark.parametrize("version", ["reference", "cpu"])
def test_short_convolution_equals_torch_in_every_document(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", version)
    x, weight, bounds = randn(2, 9, 5), randn(5, 4), [0, 2, 3, 14, 18]
    found = short_convolution(x, weight, torch.tensor(bounds)).flatten(0, 1)
    for begin, end in ((0, 2), (2, 3), (3, 9), (9, 14), (14, 18)):
        channels = F.pad(x.flatten(0, 1)[begin:end].t(), (3, 0)).unsqueeze(0)
        expected = F.silu(F.conv1d(channels, weight.unsqueeze(1), groups=5))[0].t()
        torch.testing.assert_close(found[begin:end], expected)
    torch.testing.assert_close(short_convolution(x, weight)[:, :2], short_convolution(x[:, :2], weight))
