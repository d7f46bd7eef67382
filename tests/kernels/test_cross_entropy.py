"""Cross entropy with separate z-loss, and the chunked loss that never stores all logits: chunks, dtypes, memory."""

import pytest
import torch
import torch.nn.functional as F

from longcat.kernels.cross_entropy import VERSIONS, cross_entropy_with_z
from longcat.kernels.linear_cross_entropy import VERSIONS as LINEAR_VERSIONS
from longcat.kernels.linear_cross_entropy import chunked, cpu, linear_cross_entropy
from longcat.kernels.select import KernelError

TARGETS = torch.tensor([3, -100, 10, 0, 5, -100, 7])
versions = pytest.mark.parametrize("version", VERSIONS)
linear_versions = pytest.mark.parametrize("version", LINEAR_VERSIONS)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@versions
def test_z_is_part_of_the_total_and_has_no_separate_gradient(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"cross_entropy={version}")
    logits = torch.randn(7, 11, requires_grad=True)
    total, z, counted = cross_entropy_with_z(logits, TARGETS, 0.5)
    torch.testing.assert_close(total - z, F.cross_entropy(logits, TARGETS, reduction="sum"))
    expected = 0.5 * logits.logsumexp(-1).square()[TARGETS != -100].sum()
    torch.testing.assert_close(z, expected.detach())
    assert not z.requires_grad
    assert counted.item() == 5


@versions
def test_large_logits_are_exact(version: str) -> None:
    logits = torch.tensor([[30000.0, 29999.0, float("-inf")]])
    total, _, _ = VERSIONS[version](logits, torch.tensor([1]), -100, 0.0)
    torch.testing.assert_close(total, F.cross_entropy(logits, torch.tensor([1]), reduction="sum"), rtol=0, atol=2e-3)


@versions
def test_ignored_rows_may_have_any_values(version: str) -> None:
    logits = torch.randn(7, 11)
    logits[1], logits[5] = float("nan"), float("inf")
    logits.requires_grad_()
    total, z, _ = VERSIONS[version](logits, TARGETS, -100, 0.0)
    assert total.isfinite()
    assert z.isfinite()


def test_a_target_outside_the_vocabulary_gives_nan() -> None:
    total, _, _ = VERSIONS["triton"](torch.zeros(1, 5), torch.tensor([5]), -100, 0.0)
    assert total.isnan()


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("row_losses", ["cpu", "triton"])
def test_chunks_do_not_change_the_loss(rows: int, row_losses: str) -> None:
    from longcat.kernels.cross_entropy.triton import row_losses_

    hidden, weight = torch.randn(7, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    losses_ = row_losses_ if row_losses == "triton" else cpu._row_losses_
    total, z = chunked._Chunked.apply(hidden, weight, TARGETS, 0.1, -100, losses_, rows * 11 * 4, True)
    expected, expected_z, _ = LINEAR_VERSIONS["reference"](hidden, weight, TARGETS, 0.1, -100)
    torch.testing.assert_close((total, z), (expected, expected_z))
    ours, theirs = (torch.autograd.grad(3 * loss, (hidden, weight)) for loss in (total, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_chunks_are_few_and_even() -> None:
    weight = torch.empty(1 << 10, 1)
    assert [chunked.chunk_rows(tokens, weight, 100 << 12) for tokens in (0, 1, 100, 101, 250)] == [1, 1, 100, 51, 84]
    assert chunked.chunk_rows(5, weight, 1) == 1


@linear_versions
def test_half_precision_inputs_give_gradients_of_the_same_dtype(version: str) -> None:
    hidden, weight = torch.randn(7, 6), torch.randn(11, 6)
    pairs = [[x.to(dtype).requires_grad_() for x in (hidden, weight)] for dtype in (torch.bfloat16, torch.float64)]
    losses = [
        LINEAR_VERSIONS[name](*pair, TARGETS, 0.1, -100)[0]
        for name, pair in zip((version, "reference"), pairs, strict=True)
    ]
    assert losses[0].dtype == torch.float32
    gradients = [torch.autograd.grad(loss, pair) for loss, pair in zip(losses, pairs, strict=True)]
    for ours, exact in zip(*gradients, strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.linalg.vector_norm(ours.double() - exact) <= 2e-2 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("rows", [7, 3, 1])
def test_half_precision_sums_the_gradient_of_chunks_in_float32(rows: int) -> None:
    """Products 256 and then 1 six times: a bfloat16 sum would stay at 256."""
    hidden = torch.tensor([[256.0], *[[1.0]] * 6]).bfloat16()
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    targets = torch.zeros(7, dtype=torch.int64)
    total, _ = chunked._Chunked.apply(hidden, weight, targets, 0.0, -100, cpu._row_losses_, rows * 2 * 2, True)
    (gradient,) = torch.autograd.grad(total, (weight,))
    assert gradient.dtype == torch.bfloat16
    assert gradient.flatten().tolist() == [-131.0, 131.0]  # each softmax is 1/2


@linear_versions
def test_only_requested_gradients_are_computed(version: str) -> None:
    hidden, weight = torch.randn(7, 6), torch.randn(11, 6)
    for wanted in (hidden, weight):
        wanted.requires_grad_()
        (grad,) = torch.autograd.grad(LINEAR_VERSIONS[version](hidden, weight, TARGETS, 0.1, -100)[0], (wanted,))
        assert grad.shape == wanted.shape
        wanted.requires_grad_(False)
    with torch.no_grad():
        assert not LINEAR_VERSIONS[version](hidden, weight, TARGETS, 0.1, -100)[0].requires_grad


@linear_versions
def test_a_second_backward_gives_the_same_gradient(version: str) -> None:
    hidden, weight = torch.randn(7, 6, requires_grad=True), torch.randn(11, 6, requires_grad=True)
    loss = LINEAR_VERSIONS[version](hidden, weight, TARGETS, 0.1, -100)[0] / 7
    once = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    for first, second in zip(once, torch.autograd.grad(loss, (hidden, weight)), strict=True):
        assert torch.equal(first, second)


def test_inconsistent_shapes_and_dtypes_are_named() -> None:
    hidden, weight = torch.zeros(7, 6), torch.zeros(11, 6)
    for pair in ((hidden[:, :5], weight), (hidden[:6], weight), (hidden.double(), weight)):
        with pytest.raises(KernelError, match=r"must be \[T, D\], \[V, D\] and \[T\]"):
            linear_cross_entropy(*pair, TARGETS)
