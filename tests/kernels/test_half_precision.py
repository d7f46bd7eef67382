"""Half precision on a CPU: experts with padded rows, and norms in blocks, compared with float64."""

import pytest
import torch

from longcat.kernels.expert_mixture import half as experts
from longcat.kernels.expert_mixture import reference
from longcat.kernels.feed_forward import feed_forward
from longcat.kernels.rms_norm import half as norms
from longcat.kernels.rms_norm import reference as norm_reference
from longcat.kernels.swiglu import half as swiglus

DTYPES = (torch.bfloat16, torch.float16)
ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
N = 3
CHOICES = {
    "ragged": [[0, 3], [0, 4], [0, 2], [3, 4], [2, 0]] * 9,  # 36, 0 and 18 rows, and zero experts
    "no expert": [[3, 4]] * 4,
    "no token": [],
}


def close(ours: torch.Tensor, exact: torch.Tensor, dtype: torch.dtype, tolerance: float) -> None:
    assert ours.dtype == dtype
    assert torch.linalg.vector_norm(ours.double() - exact) <= tolerance * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("choice", CHOICES)
def test_experts_and_their_gradients(choice: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    experts_TK = torch.tensor(CHOICES[choice], dtype=torch.int64).view(-1, 2)
    tokens = experts_TK.shape[0]
    x, weights = torch.randn(tokens, 8).to(dtype), torch.rand(tokens, 2)
    gate_up, down = torch.randn(N, 24, 8).to(dtype), torch.randn(N, 8, 12).to(dtype)
    direction = torch.randn(tokens, 8).to(dtype)
    results = []
    for version, convert in ((reference, torch.Tensor.double), (experts, torch.Tensor.clone)):
        given = [convert(tensor.detach()).requires_grad_() for tensor in (x, weights, gate_up, down)]
        y = version.expert_mixture(given[0], given[1], experts_TK, given[2], given[3])
        results.append([y.detach(), *torch.autograd.grad(y, given, convert(direction))])
    for name, exact, ours in zip(("y", "x", "weights", "gate_up", "down"), *results, strict=True):
        close(ours, exact, torch.float32 if name == "weights" else dtype, ROUNDING[dtype])


def test_an_expert_without_rows_has_a_gradient_of_zero() -> None:
    x = torch.ones(2, 8, dtype=torch.bfloat16)
    gate_up, down = torch.ones(N, 24, 8).bfloat16().requires_grad_(), torch.ones(N, 8, 12).bfloat16().requires_grad_()
    y = experts.expert_mixture(x, torch.ones(2, 1), torch.tensor([[0], [2]]), gate_up, down)
    for gradient in torch.autograd.grad(y.sum(), (gate_up, down)):
        assert torch.equal(gradient[1], torch.zeros_like(gradient[1]))
        assert bool((gradient[0] != 0).all())


def test_rows_of_every_expert_are_padded_to_a_multiple() -> None:
    """Shapes of products repeat: 36 rows take 64 places, 18 take 32, none take none."""
    rows = experts.layout(torch.tensor(CHOICES["ragged"]), N)
    assert rows.spans == [(0, 0, 64), (2, 64, 96)]
    assert rows.place_R.tolist() == [*range(36), *range(64, 82)]
    tokens = [t for t in range(45) if 0 in CHOICES["ragged"][t]]
    assert rows.token_P[:36].tolist() == tokens
    assert rows.token_P[36:64].tolist() == [0] * 28
    assert rows.place_TK[4].tolist() == [64 + 1, 3]


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_do_not_depend_on_the_size_of_blocks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    x, weight, direction = torch.randn(2, 5, 8).to(dtype), torch.randn(8).to(dtype), torch.randn(2, 5, 8).to(dtype)
    found = []
    for values in (1 << 20, 3 * 8, 1):
        monkeypatch.setattr(norms, "BLOCK_VALUES", values)
        given = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        y = norms.rms_norm(*given, 1e-5)
        found.append([y.detach(), *torch.autograd.grad(y, given, direction)])
    given = [x.double().requires_grad_(), weight.double().requires_grad_()]
    y = norm_reference.rms_norm(*given, 1e-5)
    exact = [y.detach(), *torch.autograd.grad(y, given, direction.double())]
    for results in found:
        assert torch.equal(results[0], found[0][0])
        assert torch.equal(results[1], found[0][1])
        for ours, expected in zip(results, exact, strict=True):
            close(ours, expected, dtype, ROUNDING[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_do_not_depend_on_the_size_of_blocks(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    gate, up, grad = (torch.randn(5, 6).to(dtype) for _ in range(3))
    factor = torch.rand(5, 1)
    wide = [x.double().requires_grad_() for x in (gate, up, factor)]
    exact = wide[2] * torch.nn.functional.silu(wide[0]) * wide[1]
    expected = [exact.detach(), *torch.autograd.grad(exact, wide, grad.double())]
    for values in (1 << 20, 2 * 6, 1):
        monkeypatch.setattr(swiglus, "BLOCK_VALUES", values)
        grads, result = torch.empty(2, 5, 6, dtype=dtype), grad.clone()
        of_factor = swiglus.differentiate(gate, up, result, grads[0], grads[1], factor)
        assert torch.equal(result, swiglus.activate(gate, up, factor))
        torch.testing.assert_close(of_factor.double(), expected[3].flatten(), rtol=1e-5, atol=1e-6)
        for ours, theirs in zip((result, *grads), expected, strict=False):
            torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=0.0)  # one rounding


@pytest.mark.parametrize("dtype", DTYPES)
def test_feed_forward_keeps_two_inner_products(dtype: torch.dtype) -> None:
    """Saved per token: the input (8 values) and gate and up (6 each), besides the matrices."""
    x = torch.randn(3, 5, 8).to(dtype).requires_grad_()
    weights = [torch.randn(*shape).to(dtype).requires_grad_() for shape in ((6, 8), (6, 8), (8, 6))]
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        y = feed_forward(x, *weights)
    kept = [tensor for tensor in saved if all(tensor is not weight for weight in weights)]
    assert sum(tensor.numel() for tensor in kept) == 15 * (8 + 6 + 6)
    assert y.shape == x.shape
