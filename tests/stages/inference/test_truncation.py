"""Truncation without sorting, against sorting."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from longcat.stages.inference.truncation import (
    draw,
    leading,
    leading_mask,
    nucleus_mass,
    weight_bits,
    weights,
)


def scores_of(kind: str, vocabulary: int) -> Tensor:
    generator = torch.Generator().manual_seed(vocabulary)
    normal = torch.randn(3, vocabulary, generator=generator)
    return {
        "normal": normal * 4,
        "tied": (normal * 2).round(),
        "equal": torch.zeros(3, vocabulary),
        "bfloat16": normal.bfloat16().float(),
        "narrow": 1 + normal * 1e-6,
        "banned": (normal * 3).masked_fill(normal > -1, -torch.inf),
        "zeros": torch.where(normal > 0, 0.0, -0.0),
    }[kind]


KINDS = ["normal", "tied", "equal", "bfloat16", "narrow", "banned", "zeros"]


def in_order(scores_RV: Tensor) -> Tensor:
    return scores_RV.sort(dim=-1, descending=True, stable=True).indices


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("vocabulary", "count"), [(50, 50), (50, 7), (20000, 64), (20011, 64), (20011, 1)])
def test_leading_tokens_are_those_of_a_stable_sort(kind: str, vocabulary: int, count: int) -> None:
    scores_RV = scores_of(kind, vocabulary)
    found, ids_RN = leading(scores_RV, count)
    assert torch.equal(ids_RN, in_order(scores_RV)[:, :count])
    assert torch.equal(found, scores_RV.gather(-1, ids_RN))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocabulary", [50, 20011])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95, 1.0])
def test_the_mask_is_the_shortest_prefix_that_reaches_the_mass(kind: str, vocabulary: int, share: float) -> None:
    scores_RV = scores_of(kind, vocabulary)
    mass_RV = weights(scores_RV, scores_RV.amax(-1), torch.ones(3), 44)
    needed_R = nucleus_mass(mass_RV.sum(-1), torch.full((3,), share, dtype=torch.float64))
    order = in_order(scores_RV)
    before = mass_RV.gather(-1, order).cumsum(-1) - mass_RV.gather(-1, order)
    expected = torch.zeros_like(scores_RV, dtype=torch.bool).scatter(-1, order, before < needed_R.unsqueeze(-1))
    assert torch.equal(leading_mask(scores_RV, mass_RV, needed_R), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_counts_tokens_if_each_has_mass_one(kind: str) -> None:
    scores_RV = scores_of(kind, 3001)
    found = leading_mask(scores_RV, torch.ones(3, 3001, dtype=torch.int64), torch.tensor([1, 100, 3001]))
    for mask_V, order_V, count in zip(found, in_order(scores_RV), [1, 100, 3001], strict=True):
        assert set(mask_V.nonzero().flatten().tolist()) == set(order_V[:count].tolist())


def test_weights_of_a_whole_vocabulary_do_not_overflow() -> None:
    assert weight_bits(131072) == 44
    assert (1 << 24) << weight_bits(1 << 24) <= 1 << 62


def test_draws_cover_the_ends_and_skip_entries_of_weight_zero() -> None:
    weights_RN = torch.tensor([[0, 3, 0, 1, 0]]).expand(4, -1)
    uniform_R = torch.tensor([0.0, 0.74, 0.76, 1 - 2**-53], dtype=torch.float64)
    assert draw(weights_RN, uniform_R).tolist() == [1, 1, 3, 3]
    large = torch.tensor([[0, (1 << 62) - 1, 0]])
    assert draw(large, uniform_R[-1:]).tolist() == [1]
