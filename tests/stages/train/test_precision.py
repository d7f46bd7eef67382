"""The half-precision copy of a model: its gradients, and the step of the float32 weights."""

import pytest
import torch

from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim import precision
from longcat.stages.train.optim.adamw import build_optimizer, set_learning_rate
from longcat.stages.train.optim.precision import ComputeModel
from longcat.stages.train.parallel.build import whole
from longcat.stages.train.parallel.norms import gradient_norm

RATE, FACTOR = 1e-2, 0.25


def new(dtype: torch.dtype) -> tuple[LongcatFlash, ComputeModel, torch.optim.Optimizer]:
    model = LongcatFlash(load_preset("smoke"))
    initialize(model, seed=0)
    held = whole(model, torch.device("cpu"), dtype)
    optimizer = build_optimizer(held, OptimizerOptions())
    set_learning_rate(optimizer, RATE)
    return model, ComputeModel(held), optimizer


def backward(compute: ComputeModel, seed: int) -> None:
    tokens = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(seed))
    compute.model.loss(tokens[:, :-1], tokens[:, 1:])[0].backward()
    compute.collect_gradients()


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_the_sum_of_gradients_is_float32(micro_batches: int) -> None:
    model, compute, _ = new(torch.bfloat16)
    for seed in range(micro_batches):
        backward(compute, seed)
    weight = model.lm_head.weight if model.lm_head is not None else model.model.embed_tokens.weight
    assert weight.grad is not None
    assert weight.grad.dtype == (torch.bfloat16 if micro_batches == 1 else torch.float32)
    alone = []
    for seed in range(micro_batches):
        other, own, _ = new(torch.bfloat16)
        backward(own, seed)
        alone.append(other)
    for name, parameter in model.named_parameters():
        single = [dict(other.named_parameters())[name].grad for other in alone]
        assert parameter.grad is not None
        assert torch.equal(parameter.grad.float(), sum(part.float() for part in single if part is not None))
    assert all(parameter.grad is None for parameter in compute.model.parameters())


@pytest.mark.parametrize("values", [1 << 23, 5000, 1])
def test_the_step_is_that_of_float32_gradients(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step of AdamW for all parameters at once, with the same gradients, converted and scaled."""
    monkeypatch.setattr(precision, "BUCKET_VALUES", values)
    model, compute, optimizer = new(torch.bfloat16)
    expected, _, plain = new(torch.float32)
    for seed in range(2):
        backward(compute, seed)
        for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
            theirs.grad = None if ours.grad is None else ours.grad.float() * FACTOR
        plain.step()
        compute.update(optimizer, FACTOR)
        compute.refresh()
    for ours, theirs, copy in zip(model.parameters(), expected.parameters(), compute.model.parameters(), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
        assert torch.equal(copy, ours.to(copy.dtype))
        assert ours.grad is None


def test_the_norm_of_half_precision_gradients_is_exact() -> None:
    """2 * 10^6 values of 3 and one of 4 * 10^3: sqrt(18e6 + 16e6); a bfloat16 sum would stop growing early."""
    parameter = torch.nn.Parameter(torch.zeros(2_000_001))
    parameter.grad_dtype = None
    parameter.grad = torch.full((2_000_001,), 3.0, dtype=torch.bfloat16)
    parameter.grad[-1] = 4000.0
    parallel = whole(LongcatFlash(load_preset("smoke")), torch.device("cpu"), torch.bfloat16).parallel
    assert gradient_norm([parameter], parallel) == pytest.approx(34e6**0.5, rel=1e-7)
