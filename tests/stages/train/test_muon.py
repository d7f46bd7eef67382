"""Muon and cautious weight decay: updates against float64, and what is updated how."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import ConfigError
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim import newton_schulz
from longcat.stages.train.optim.adamw import build_optimizer, load_moments, moments, set_learning_rate
from longcat.stages.train.optim.newton_schulz import COEFFICIENTS, orthogonalize, orthogonalize_all

RATE, DECAY, MOMENTUM = 0.01, 0.3, 0.9
Tensors = dict[str, torch.Tensor]


def oracle(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """U p(p(...p(S))) V^T of one matrix, from its singular value decomposition in float64."""
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.square().sum().sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 48, 80), (3, 80, 48), (2, 64, 64), (2, 1, 9), (1, 7, 200)])
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 1e-5), ("bfloat16", 0.05)])
def test_orthogonalization_against_singular_values(shape: tuple[int, ...], dtype: str, bound: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = x if dtype == "float64" else x.float()
    found = orthogonalize(given, 5, getattr(torch, dtype))
    assert (found.dtype, found.shape) == (given.dtype, given.shape)
    for matrix, expected in zip(found, x, strict=True):
        assert relative(matrix, oracle(expected)) < bound


def test_five_steps_bring_singular_values_near_one() -> None:
    u, v = (torch.linalg.qr(torch.randn(size, 40, dtype=torch.float64))[0] for size in (60, 50))
    s = torch.logspace(-2, 0, 40, dtype=torch.float64)  # the smallest is 0.003 of the norm
    found = torch.linalg.svdvals(orthogonalize(u @ torch.diag(s) @ v.T, 5, torch.float64))[:40]
    assert 0.68 < found.min() < found.max() < 1.21


def test_tiny_and_zero_matrices() -> None:
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2))
    small = orthogonalize(x * 1e-9, 5, torch.float32)
    torch.testing.assert_close(small, orthogonalize(x, 5, torch.float32), rtol=1e-4, atol=1e-5)
    assert torch.equal(orthogonalize(torch.zeros_like(x), 5, torch.float32), torch.zeros_like(x))
    assert torch.isfinite(orthogonalize(torch.full_like(x, 1e-20), 5, torch.float32)).all()
    assert orthogonalize(torch.zeros(0, 1, 6, 4), 5, torch.float32).shape == (0, 1, 6, 4)


@pytest.mark.parametrize(("block", "largest"), [(1, 1), (100, 4), (1 << 22, 7)])
def test_matrices_of_the_same_shape_are_computed_together(
    block: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newton_schulz, "BLOCK_VALUES", block)
    batches, iterate = [], newton_schulz._iterate
    monkeypatch.setattr(newton_schulz, "_iterate", lambda x, *given: batches.append(len(x)) or iterate(x, *given))
    generator = torch.Generator().manual_seed(3)
    shapes = [(6, 4), (2, 6, 4), (4, 6), (3, 1, 6, 4), (40, 20), (6, 4), (0, 6, 4)]
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for x, found in zip(tensors, orthogonalize_all(tensors, 5, torch.float64), strict=True):
        assert found.shape == x.shape
        for matrix, result in zip(x.reshape(-1, *x.shape[-2:]), found.reshape(-1, *x.shape[-2:]), strict=True):
            assert relative(result, oracle(matrix)) < 1e-10
    assert (sum(batches), max(batches)) == (9, largest)


def with_gradients(seed: int = 0) -> LongcatFlash:
    """A model of one layer with multi-token prediction, with random weights and gradients."""
    model = LongcatFlash(load_preset("smoke").model_copy(update={"num_nextn_predict_layers": 1}))
    initialize(model, 0)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return model


def steps(options: OptimizerOptions, count: int = 2) -> tuple[Tensors, list[Tensors], Tensors, torch.optim.Optimizer]:
    """Weights before, gradients of every step, weights after, and the optimizer."""
    model = with_gradients()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, options)
    set_learning_rate(optimizer, RATE)
    gradients = []
    for step in range(count):
        for parameter, other in zip(model.parameters(), with_gradients(step).parameters(), strict=True):
            parameter.grad = other.grad
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
        optimizer.step()
    return before, gradients, {name: p.detach() for name, p in model.named_parameters()}, optimizer


def muon(**options: Any) -> OptimizerOptions:
    own = {key: options.pop(key) for key in ("scale", "per_head", "nesterov") if key in options}
    return OptimizerOptions(kind="muon", muon={"momentum": MOMENTUM, **own}, weight_decay=DECAY, **options)


def expected(
    x: torch.Tensor, gradients: list[torch.Tensor], *, scale: str = "rms", nesterov: bool = True, cautious: bool = False
) -> torch.Tensor:
    """A matrix after steps of Muon, in float64."""
    x, average = x.double(), torch.zeros_like(x, dtype=torch.float64)
    rows, columns = x.shape
    factor = 0.2 * math.sqrt(max(rows, columns)) if scale == "rms" else math.sqrt(max(1.0, rows / columns))
    for gradient in gradients:
        average = MOMENTUM * average + (1 - MOMENTUM) * gradient.double()
        update = factor * oracle(MOMENTUM * average + (1 - MOMENTUM) * gradient.double() if nesterov else average)
        decayed = x * (update * x >= 0) if cautious else x
        x = x - RATE * (update + DECAY * decayed)
    return x


def matrices(tensors: Tensors, *, per_head: bool = False) -> Tensors:
    """The matrices that Muon updates, one by one."""
    config = load_preset("smoke")
    found: Tensors = {}
    for name, tensor in tensors.items():
        if tensor.ndim == 3:
            for expert, value in enumerate(tensor):
                parts = value.chunk(2) if name.endswith("gate_up_proj") else (value,)
                found |= {f"{name} {expert} {number}": part for number, part in enumerate(parts)}
        elif tensor.ndim == 2 and not name.endswith(("embed_tokens.weight", "lm_head.weight", "classifier.weight")):
            rows = {"q_b_proj": (config.qk_head_dim,), "kv_b_proj": (config.qk_nope_head_dim, config.v_head_dim)}
            own = rows.get(name.split(".")[-2], ()) if per_head else ()
            parts = tensor.split(own * config.num_attention_heads) if own else (tensor,)
            found |= {f"{name} {number}": part for number, part in enumerate(parts)}
    return found


@pytest.mark.parametrize(
    "options", [{}, {"scale": "spectral"}, {"per_head": True}, {"nesterov": False}, {"cautious_decay": True}]
)
def test_every_matrix_is_updated_by_itself(options: dict[str, Any]) -> None:
    """Each expert's gate, up and down projection, each dense matrix and with `per_head` each head, in a loop."""
    before, gradients, after, _ = steps(muon(**options))
    per_head = options.get("per_head", False)
    wanted = {"scale", "nesterov"} & options.keys()
    given = {key: options[key] for key in wanted} | {"cautious": options.get("cautious_decay", False)}
    taken = [matrices(gradient, per_head=per_head) for gradient in gradients]
    found = matrices(after, per_head=per_head)
    assert len(found) > 30
    for name, start in matrices(before, per_head=per_head).items():
        end = expected(start, [gradient[name] for gradient in taken], **given)
        assert relative(found[name] - start, end - start.double()) < 2e-4, name


def test_other_parameters_are_those_of_adamw() -> None:
    """Embedding, output projection, router and norms have the bits that AdamW gives them."""
    _, _, after, optimizer = steps(muon())
    _, _, plain, _ = steps(OptimizerOptions(weight_decay=DECAY))
    whole = {name.rpartition(" ")[0].split(" ")[0] for name in matrices(after)}
    for name, value in after.items():
        assert torch.equal(value, plain[name]) == (name not in whole), name
    model = with_gradients()
    assert {group["kind"] for group in optimizer.param_groups} >= {
        "embedding",
        "hidden",
        "router",
        "unembedding",
        "vector",
    }
    state = moments(model, build_and_step(model, muon()))
    keys = {name: {key.rpartition(".")[2] for key in state if key.rpartition(".")[0] == name} for name in after}
    assert all(
        found == ({"momentum"} if name in whole else {"exp_avg", "exp_avg_sq", "step"}) for name, found in keys.items()
    )


def build_and_step(model: LongcatFlash, options: OptimizerOptions) -> torch.optim.Optimizer:
    optimizer = build_optimizer(model, options)
    set_learning_rate(optimizer, RATE)
    optimizer.step()
    return optimizer


def test_elements_of_updates_are_as_large_as_those_of_adamw() -> None:
    before, _, after, _ = steps(muon().model_copy(update={"weight_decay": 0.0}), count=1)
    first, last = matrices(before), matrices(after)
    sizes = {name: ((first[name] - last[name]).square().mean().sqrt() / RATE).item() for name in first}
    assert all(0.2 * 0.6 < size < 0.2 * 1.14 for size in sizes.values()), sizes


def test_cautious_adamw_decays_where_the_update_does() -> None:
    options = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    before, gradients, after, _ = steps(OptimizerOptions(weight_decay=DECAY, cautious_decay=True, **options), count=3)
    _, _, plain, _ = steps(OptimizerOptions(weight_decay=DECAY, **options), count=3)
    for name, start in before.items():
        x, first, second = start.double(), torch.zeros_like(start).double(), torch.zeros_like(start).double()
        for step, gradient in enumerate(gradients, start=1):
            first = 0.9 * first + 0.1 * gradient[name].double()
            second = 0.95 * second + 0.05 * gradient[name].double().square()
            update = first / (1 - 0.9**step) / ((second / (1 - 0.95**step)).sqrt() + 1e-8)
            decay = DECAY * x * (update * x >= 0) if x.ndim > 1 else 0.0
            x = x - RATE * (update + decay)
        torch.testing.assert_close(after[name].double(), x, rtol=1e-4, atol=1e-6)
        assert torch.equal(after[name], plain[name]) == (start.ndim == 1)


def test_half_precision_products() -> None:
    before, _, after, _ = steps(muon())
    options = muon()
    half = options.model_copy(update={"muon": options.muon.model_copy(update={"dtype": "bfloat16"})})
    _, _, rounded, _ = steps(half)
    for name, value in matrices(after).items():
        start = matrices(before)[name]
        assert 1e-4 < relative(matrices(rounded)[name] - start, value - start) < 0.05, name


def test_steps_of_a_part_of_the_parameters() -> None:
    """The step of half precision is one of a few parameters at a time (`optim.precision`)."""
    whole, parts = with_gradients(), with_gradients()
    build_and_step(whole, muon())
    optimizer = build_optimizer(parts, muon())
    set_learning_rate(optimizer, RATE)
    kept = {name: parameter.grad for name, parameter in parts.named_parameters()}
    optimizer.zero_grad(set_to_none=True)
    for name, parameter in parts.named_parameters():
        parameter.grad = kept[name]
        optimizer.step()
        parameter.grad = None
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_state_of_the_other_optimizer_is_refused() -> None:
    model = with_gradients()
    for first, second in (("adamw", "muon"), ("muon", "adamw")):
        state = moments(model, build_and_step(model, OptimizerOptions(kind=first)))
        other = build_optimizer(model, OptimizerOptions(kind=second))
        with pytest.raises(ConfigError, match=f"optimizer.kind is {second}, .* is that of {first}") as caught:
            load_moments(model, other, state)
        assert "optimizer.state: reset" in str(caught.value.hint)
        again = build_optimizer(model, OptimizerOptions(kind=first))
        load_moments(model, again, state)
        assert all(torch.equal(value, state[name]) for name, value in moments(model, again).items())


def test_options_of_muon_without_it_are_refused() -> None:
    with pytest.raises(ValidationError, match="kind is adamw; set kind: muon"):
        OptimizerOptions(muon={"momentum": 0.9})
