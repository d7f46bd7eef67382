"""Selection of the router: bias, ties, extremes, counts, and the gradient of its weights."""

import pytest
import torch

from longcat.kernels.router import VERSIONS, cpu, reference, route
from longcat.kernels.select import KernelError

versions = pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)


@versions
def test_weights_are_unbiased_scores_times_scaling(version) -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    bias = torch.tensor([0.0, 0.0, 0.0, 5.0])
    routing = version(logits, bias, 2, 6.0)
    scores = logits.softmax(-1)[0]
    assert routing.experts_TK.tolist() == [[3, 0]]
    torch.testing.assert_close(routing.weights_TK[0], 6.0 * scores[[3, 0]])
    assert routing.counts_E.tolist() == [1, 0, 0, 1]


@versions
def test_ties_go_to_the_lowest_index(version) -> None:
    assert version(torch.zeros(3, 100), torch.zeros(100), 7, 1.0).experts_TK.tolist() == [list(range(7))] * 3
    bias = torch.zeros(8)
    bias[[1, 4, 6]] = 1.0
    assert version(torch.zeros(1, 8), bias, 5, 1.0).experts_TK.tolist() == [[1, 4, 6, 0, 2]]


@versions
def test_negative_scores_are_ordered(version) -> None:
    """A negative bias makes score + bias negative, where the bits of floats sort in reverse."""
    bias = torch.tensor([-1.0, -3.0, -2.0, -1.0])
    assert version(torch.zeros(1, 4), bias, 4, 1.0).experts_TK.tolist() == [[0, 3, 2, 1]]


def test_versions_select_the_same_with_equal_scores() -> None:
    torch.manual_seed(0)
    logits = torch.randint(-2, 3, (16, 48)).float()
    bias = torch.randint(-2, 3, (48,)).float() / 64
    expected = reference.route(logits, bias, 12, 6.0)
    assert expected.counts_E.sum() == 16 * 12
    for version in VERSIONS.values():
        result = version(logits, bias, 12, 6.0)
        assert torch.equal(result.experts_TK, expected.experts_TK)
        torch.testing.assert_close(result.weights_TK, expected.weights_TK, rtol=1e-6, atol=0)
        assert torch.equal(result.counts_E, expected.counts_E)


@versions
def test_all_tokens_to_one_expert_and_no_tokens(version) -> None:
    logits = torch.zeros(5, 6)
    logits[:, 2] = 50.0
    assert version(logits, torch.zeros(6), 1, 6.0).counts_E.tolist() == [0, 0, 5, 0, 0, 0]
    empty = version(logits[:0], torch.zeros(6), 2, 6.0)
    assert empty.counts_E.tolist() == [0] * 6
    assert empty.experts_TK.shape == (0, 2)


def test_the_bias_gets_no_gradient_and_topk_is_checked() -> None:
    bias = torch.zeros(6, requires_grad=True)
    logits = torch.randn(4, 6, requires_grad=True)
    route(logits, bias, 2, 6.0).weights_TK.square().sum().backward()
    assert bias.grad is None
    assert logits.grad is not None
    with pytest.raises(KernelError, match="topk = 7"):
        route(logits, bias, 7, 6.0)


def test_cpu_backward_passes_a_numerical_check() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: cpu.route(x, bias, 3, 6.0).weights_TK, (logits,))


@pytest.mark.parametrize("top_experts", [reference.top_experts, cpu.top_experts], ids=["reference", "cpu"])
def test_both_zeros_are_equal(top_experts) -> None:
    assert top_experts(torch.tensor([[-0.0, 0.0, -1.0, -0.0]]), 4).tolist() == [[0, 1, 3, 2]]


@versions
def test_cancelled_scores_and_zero_scores_are_ties(version) -> None:
    """A score of 0 with bias -0.0 gives 0.0, as does 0.5 with -0.5: ties, ordered by index."""
    logits = torch.tensor([[-200.0, 0.0, -200.0, 0.0]])
    bias = torch.tensor([-0.0, -0.5, 0.0, -0.5])
    routing = version(logits, bias, 3, 1.0)
    assert routing.experts_TK.tolist() == [[0, 1, 2]]
    assert routing.weights_TK.tolist() == [[0.0, 0.5, 0.0]]


@versions
def test_nan_selects_experts_that_exist(version) -> None:
    """A model that has diverged must show as NaN in the loss, not as an index out of range."""
    routing = version(torch.full((2, 5), float("nan")), torch.zeros(5), 3, 1.0)
    assert routing.experts_TK.tolist() == [[0, 1, 2]] * 2
    assert routing.weights_TK.isnan().all()
