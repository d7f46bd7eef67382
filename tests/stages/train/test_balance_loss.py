"""The device-level balance loss compared with its equation, and the coefficient that follows R_g."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from longcat.kernels.router import route
from longcat.stages.train.load_balance.device_loss import BalanceCoefficient, ExpertGroups, balance_loss
from longcat.stages.train.stability.config import BalanceLossOptions
from longcat.stages.train.stability.measure import due

TOKENS = 7


def by_the_equation(
    scores_TE: torch.Tensor, experts_TK: torch.Tensor, experts: int, target: float, groups: int
) -> torch.Tensor:
    """Eq. 3 to 5, computed per group and token."""
    tokens, topk = experts_TK.shape
    size, total = experts // groups, torch.zeros((), dtype=scores_TE.dtype)
    bounds = [(group * size, (group + 1) * size) for group in range(groups)]
    if scores_TE.shape[1] > experts and topk > target:
        bounds.append((experts, scores_TE.shape[1]))
    for group, (first, last) in enumerate(bounds):
        share, selections = torch.zeros((), dtype=scores_TE.dtype), 0
        for token in range(tokens):
            share = share + scores_TE[token, first:last].sum()
            selections += sum(first <= expert < last for expert in experts_TK[token].tolist())
        norm = groups / (target * tokens) if group < groups else 1 / ((topk - target) * tokens)
        total = total + norm * selections * share / tokens
    return total


def groups_of(experts: int, zero_experts: int, target: float, groups: int | None = None) -> ExpertGroups:
    options = BalanceLossOptions(enabled=True, groups=groups)
    return ExpertGroups.of(options, experts=experts, zero_experts=zero_experts, topk=3, target=target)


@pytest.mark.parametrize(
    ("experts", "zero_experts", "target", "groups"), [(6, 3, 2.0, 3), (6, 3, 2.5, 1), (6, 3, 3.0, 2), (8, 0, 3.0, 4)]
)
def test_loss_and_gradient_are_those_of_the_equation(
    experts: int, zero_experts: int, target: float, groups: int
) -> None:
    generator = torch.Generator().manual_seed(1)
    logits_TE = torch.randn(TOKENS, experts + zero_experts, generator=generator, dtype=torch.float64)
    logits_TE.requires_grad_()
    routing = route(logits_TE, torch.zeros(experts + zero_experts, dtype=torch.float64), 3, 6.0)
    frequencies_E = groups_of(experts, zero_experts, target, groups).frequencies(routing.counts_E, TOKENS)
    ours = balance_loss(logits_TE, frequencies_E, TOKENS)
    theirs = by_the_equation(logits_TE.softmax(dim=1), routing.experts_TK, experts, target, groups)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    (ours_TE,), (theirs_TE,) = torch.autograd.grad(ours, logits_TE), torch.autograd.grad(theirs, logits_TE)
    torch.testing.assert_close(ours_TE, theirs_TE, rtol=1e-12, atol=1e-15)


def test_frequencies_are_one_at_balance() -> None:
    counts_E = torch.tensor([4] * 6 + [4] * 3)  # 36 slots of 12 tokens: 24 and 12
    assert groups_of(6, 3, 2.0, 3).frequencies(counts_E, 12).tolist() == pytest.approx([1.0] * 9)


def test_tokens_spread_over_devices_add_up() -> None:
    logits_TE = torch.randn(10, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    counts_E = route(logits_TE, torch.zeros(9, dtype=torch.float64), 3, 6.0).counts_E
    frequencies_E = groups_of(6, 3, 2.0).frequencies(counts_E, 10)
    parts = [balance_loss(part_TE, frequencies_E, 10) for part_TE in logits_TE.split((4, 6))]
    assert sum(parts).item() == pytest.approx(balance_loss(logits_TE, frequencies_E, 10).item(), rel=1e-12)


def test_groups() -> None:
    assert groups_of(12, 3, 2.0).groups == 4
    assert groups_of(512, 256, 2.0).groups == 8
    with pytest.raises(ValueError, match=r"balance_loss\.groups = 5 must divide the 6 FFN experts"):
        groups_of(6, 3, 2.0, 5)


def test_the_coefficient_reaches_and_follows_its_target() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(limit_ratio=0.2))
    assert coefficient.value == 0.0
    assert coefficient.wants_measurement
    coefficient.update([100.0, 60.0])
    assert coefficient.value * 80 == pytest.approx(0.05)
    assert not coefficient.wants_measurement
    for _ in range(20):
        coefficient.update([10.0, 6.0])
    assert coefficient.value * 8 == pytest.approx(0.05, rel=1e-3)


def test_one_update_is_at_most_a_factor_of_two() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(limit_ratio=0.4))
    coefficient.update([1.0])
    coefficient.update([1e-3])
    assert coefficient.value == pytest.approx(0.1)


def test_no_layer_exceeds_half_of_the_limit() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(enabled=True))
    coefficient.update([1.0] * 9 + [91.0])  # the mean of 10 requires 0.005, for which the last layer has 0.455
    assert coefficient.value * 91 == pytest.approx(0.05)


def test_the_limit_holds_for_the_last_four_measurements() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(enabled=True))
    coefficient.update([8.0])
    assert coefficient.value == pytest.approx(0.05 / 8)
    for _ in range(3):
        coefficient.update([1.0])
        assert coefficient.value <= 0.05 / 8 * (1 + 1e-12)
    coefficient.update([1.0])  # the measurement of 8 is forgotten
    assert coefficient.value == pytest.approx(0.05 / 8 * 2)


@pytest.mark.parametrize(("spread", "share"), [(0.35, 0.01), (0.7, 0.05)])
def test_noise_of_the_measurement_seldom_exceeds_the_limit(spread: float, share: float) -> None:
    """Log-normal ratios; 0.7 is the spread measured in a model of one layer with 1024 tokens per step."""
    generator = np.random.default_rng(0)
    coefficient, above, steps = BalanceCoefficient(BalanceLossOptions(every=50)), 0, 20_000
    for done in range(steps):
        ratio = math.exp(spread * generator.standard_normal())
        above += coefficient.value * ratio > 0.1
        if coefficient.moves(done, done):
            coefficient.update([ratio])
    assert above / steps < share


def test_a_measurement_above_the_limit_is_repeated() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(enabled=True))
    coefficient.update([1.0])
    assert not coefficient.wants_measurement
    coefficient.update([3.0])  # 0.05 * 3 > 0.1
    assert coefficient.wants_measurement
    other = BalanceCoefficient(BalanceLossOptions(enabled=True))
    other.restore(coefficient.state())
    assert other.wants_measurement
    other.update([3.0])
    assert not other.wants_measurement


def test_alpha_moves_at_its_own_interval() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(every=16))
    coefficient.update([1.0])
    assert [step for step in range(1, 40) if coefficient.moves(step - 1, step - 1)] == [1, 2, 4, 8, 17, 33]
    once = BalanceCoefficient(BalanceLossOptions(every=0))
    assert once.moves(0, 0)
    once.update([1.0])
    assert not any(once.moves(step, step) for step in range(100))
    fixed = BalanceCoefficient(BalanceLossOptions(coefficient=0.1))
    assert not any(fixed.moves(step, step) for step in range(100))


def test_measured_steps() -> None:
    assert [step for step in range(1, 40) if due(16, step - 1, step - 1)] == [1, 2, 4, 8, 17, 33]
    # A run that begins at step 5 of the history.
    assert [step for step in range(6, 40) if due(16, step - 1, step - 6)] == [6, 7, 9, 13, 17, 33]
    assert not any(due(0, step, step) for step in range(9))


def test_layers_without_a_gradient_do_not_count() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(enabled=True))
    coefficient.update([0.0, float("inf"), float("nan")])
    assert coefficient.wants_measurement
    coefficient.update([0.0, 10.0])
    assert coefficient.value == pytest.approx(0.005)


def test_the_state_of_the_coefficient_is_restored() -> None:
    first, second = (BalanceCoefficient(BalanceLossOptions(enabled=True)) for _ in range(2))
    first.update([3.0])
    second.restore(first.state())
    for coefficient in (first, second):
        coefficient.update([5.0])
    assert first.value == second.value > 0


def test_a_fixed_coefficient_does_not_change() -> None:
    coefficient = BalanceCoefficient(BalanceLossOptions(enabled=True, coefficient=0.01))
    coefficient.update([100.0])
    coefficient.restore({"coefficient": 5.0})
    assert coefficient.value == 0.01
    assert BalanceCoefficient(BalanceLossOptions(enabled=False, coefficient=0.01)).value == 0.0


def test_options_out_of_range() -> None:
    with pytest.raises(ValidationError, match="must be auto or a number of at least 0"):
        BalanceLossOptions(coefficient=-1.0)
    with pytest.raises(ValidationError, match="exceeds limit_ratio"):
        BalanceLossOptions(target_ratio=0.2)
