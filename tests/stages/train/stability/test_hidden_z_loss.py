"""The hidden z-loss compared with its equation."""

from __future__ import annotations

import pytest
import torch

from longcat.stages.train.stability.hidden_z_loss import hidden_z_loss


def by_the_equation(z_BTD: torch.Tensor) -> torch.Tensor:
    return sum(token_D.abs().exp().sum().log() ** 2 for token_D in z_BTD.flatten(0, 1))


def test_loss_and_gradient_are_those_of_the_equation() -> None:
    z_BTD = 3 * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z_BTD.requires_grad_()
    ours, theirs = hidden_z_loss(z_BTD), by_the_equation(z_BTD)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for upstream in (1.0, 0.3):
        (ours_BTD,) = torch.autograd.grad(upstream * ours, z_BTD, retain_graph=True)
        (theirs_BTD,) = torch.autograd.grad(upstream * theirs, z_BTD, retain_graph=True)
        torch.testing.assert_close(ours_BTD, theirs_BTD, rtol=1e-12, atol=1e-12)


def test_is_finite_for_overflowing_exponentials() -> None:
    z_BTD = torch.tensor([[[1e6, -2e6, 0.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    loss = hidden_z_loss(z_BTD)
    loss.backward()
    assert loss.item() == pytest.approx(2e6**2)
    assert z_BTD.grad is not None
    assert z_BTD.grad.tolist() == [[[0.0, -4e6, 0.0], [0.0, 0.0, 0.0]]]


def test_half_precision_is_summed_in_float32() -> None:
    z_BTD = torch.randn(1, 6, 64, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    loss = hidden_z_loss(z_BTD)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(by_the_equation(z_BTD.detach().double()).item(), rel=1e-5)
    assert z_BTD.grad is not None
    assert z_BTD.grad.dtype == torch.bfloat16
