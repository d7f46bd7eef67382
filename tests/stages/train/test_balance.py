"""The controller of the router biases."""

from __future__ import annotations

import pytest
import torch

from longcat.kernels.router import route
from longcat.stages.train.config import BalanceOptions
from longcat.stages.train.load_balance.controller import BiasController
from longcat.stages.train.load_balance.expert_load import Load


def controller(**options: float) -> BiasController:
    return BiasController.of(BalanceOptions.model_validate(options), experts=8, zero_experts=4, topk=3)


def test_the_published_rule() -> None:
    rule = BiasController(experts=2, zero_experts=1, topk=2, target=1.5, mu=0.5, final_mu_ratio=1.0)
    bias_E, counts_LE = torch.zeros(3), torch.tensor([[9, 5, 6]])
    rule.update([bias_E], counts_LE, tokens=10, gain=0.5)
    # 0.5 * (1.5/2 * 1/2 - T_i/(2*10))
    assert bias_E.tolist() == pytest.approx([0.5 * (0.375 - 0.45), 0.5 * (0.375 - 0.25), 0.0])


def test_defaults_and_the_decay_of_the_gain() -> None:
    rule = controller()
    assert rule.target == 2.0
    assert rule.mu == pytest.approx(3 / 12)
    assert [rule.gain(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.25, 0.1875, 0.125])


def test_published_sizes_give_the_published_target() -> None:
    rule = BiasController.of(BalanceOptions(), experts=512, zero_experts=256, topk=12)
    assert rule.target == 8.0


@pytest.mark.parametrize("target", [3.5, 12.0])
def test_a_target_out_of_reach(target: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 3"):
        controller(target_active_experts=target)


@pytest.mark.parametrize("target", [1.0, 2.0, 2.7])
def test_a_skewed_router_reaches_the_target(target: float) -> None:
    rule = controller(target_active_experts=target)
    skew_E = torch.linspace(0.8, -0.8, 12)
    bias_E, tokens = torch.zeros(12), 512
    generator = torch.Generator().manual_seed(0)
    for step in range(400):
        logits_TE = skew_E + 0.4 * torch.randn(tokens, 12, generator=generator)
        counts_LE = route(logits_TE, bias_E, 3, 1.0).counts_E.unsqueeze(0)
        rule.update([bias_E], counts_LE, tokens, rule.gain(step / 400))
    assert Load(counts_LE, [0.0], rule.experts).mean(tokens) == pytest.approx([target], rel=0.05)
    shares = counts_LE[0, :8] / counts_LE[0, :8].sum()
    assert shares.tolist() == pytest.approx([1 / 8] * 8, rel=0.25)
    assert bias_E[8:].abs().max() == 0
