"""The planner alone: assignment, latency model, budgets and coverage, against brute force and plain loops."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from longcat.model import mixers
from longcat.model.config import ModelConfig
from longcat.model.presets import load_preset
from longcat.stages.formats.windows import Window
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.sparse_balance.assignment import imbalance, in_order, longest_first
from longcat.stages.train.sparse_balance.balancer import Balancer
from longcat.stages.train.sparse_balance.budgets import OWN, RATIOS, anchor_of, candidates, choose
from longcat.stages.train.sparse_balance.coverage import BUCKETS, Coverage
from longcat.stages.train.sparse_balance.latency import LatencyModel, fit, terms

LENGTH, BATCH, GROUPS = 64, 8, 4
COEFFICIENTS = (1e-6, 1e-6, 2e-6, 1e-8)
BUDGETED = {"attention": {"kind": "test_budgeted", "k": 8}, "num_layers": 2}


@pytest.fixture(autouse=True)
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "tests.stages.train.sparse_balance.budgeted:BudgetedAttention"
    monkeypatch.setitem(mixers.KINDS, "test_budgeted", kind)


class Bimodal:
    """Every third window is one document, the others are documents of four tokens."""

    windows_per_epoch = 1000

    def sample(self, number: int) -> Window:
        ids = np.arange(LENGTH + 1) + number
        return Window(ids, np.array([0]) if number % 3 == 0 else np.arange(0, LENGTH, 4))

    def epochs(self, samples: int) -> float:
        return samples / self.windows_per_epoch


def balancer(**options: Any) -> Balancer:
    config = TrainConfig.model_validate({"steps": 1, "sparse_balance": {"groups": GROUPS, **options}})
    model = ModelConfig(**{**load_preset("smoke").model_dump(), **BUDGETED})
    sizes = {"batch_size": BATCH, "groups": GROUPS, "length": LENGTH, "layers": model.num_layers}
    return Balancer(config, Bimodal(), **sizes, latency=LatencyModel.of(model, [COEFFICIENTS]))


def partitions(windows: frozenset[int], size: int) -> Iterator[list[tuple[int, ...]]]:
    """All ways to split the windows into groups of `size`."""
    if not windows:
        yield []
        return
    first = min(windows)
    for others in itertools.combinations(sorted(windows - {first}), size - 1):
        for rest in partitions(windows - {first, *others}, size):
            yield [(first, *others), *rest]


@pytest.mark.parametrize(("groups", "size"), [(2, 2), (2, 3), (2, 4), (3, 2), (4, 2), (3, 3)])
def test_no_total_exceeds_four_thirds_of_the_best_by_much(groups: int, size: int) -> None:
    """Against all partitions: within the classical bound of longest processing time, 4/3 - 1/(3 m)."""
    generator = np.random.default_rng(groups * 10 + size)
    for _ in range(30):
        costs = generator.choice([1.0, 9.0], size=groups * size) * generator.uniform(0.8, 1.2, groups * size)
        best = min(
            max(costs[list(group)].sum() for group in split)
            for split in partitions(frozenset(range(groups * size)), size)
        )
        found = costs[longest_first(costs, groups)].sum(axis=1)
        assert best - 1e-12 <= found.max() <= best * (4 / 3 - 1 / (3 * groups))


def test_totals_differ_by_no_more_than_the_windows_of_a_round() -> None:
    generator = np.random.default_rng(0)
    for groups, rounds in ((2, 1), (3, 5), (4, 16), (8, 8)):
        costs = generator.lognormal(0, 2, groups * rounds)
        assigned = longest_first(costs, groups)
        assert sorted(assigned.reshape(-1)) == list(range(groups * rounds))
        of_rounds = costs[assigned]
        assert np.ptp(of_rounds.sum(axis=1)) <= np.ptp(of_rounds, axis=0).max() * (1 + 1e-12)
        # The windows of a round are neighbours in the order of their costs.
        assert (of_rounds[:, :-1].min(axis=0) >= of_rounds[:, 1:].max(axis=0)).all()


def test_equal_costs_and_imbalance() -> None:
    assert longest_first(np.ones(6), 2).tolist() == [[0, 2, 4], [1, 3, 5]]
    assert in_order(6, 2).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert imbalance([1.0, 3.0]) == 1.5
    assert imbalance([0.0, 0.0]) == 1.0


def test_terms_count_pairs() -> None:
    lengths = np.array([5, 1, 12])
    for budget in (None, 1, 4, 12, 50):
        attended = sum(min(t + 1, budget or t + 1) for n in lengths for t in range(n))
        assert terms(lengths, budget).tolist() == [3, 18, attended, sum(t + 1 for n in lengths for t in range(n))]


def test_the_fit_finds_what_made_the_points_and_is_never_negative() -> None:
    shapes = [(n, b) for n in (8, 32, 128, 512) for b in (4, 16, 64)]
    rows = [terms(np.full(1024 // n, n), b) for n, b in shapes]
    truth = np.array([3e-5, 0.0, 2e-8, 5e-9])
    np.testing.assert_allclose(fit([(row, float(row @ truth)) for row in rows]), truth, rtol=1e-6, atol=1e-15)
    # The best line through these falls with the number of tokens.
    noisy = fit([(row, 1 / row[1] + 1e-9 * row[3]) for row in rows])
    assert (noisy >= 0).all()
    # Optimality of the constrained problem (Karush-Kuhn-Tucker): no allowed move lowers the error.
    generator = np.random.default_rng(1)
    points = [(row, float(row @ truth * generator.uniform(0.5, 1.5))) for row in rows]
    found, scaled = fit(points), np.array([row / seconds for row, seconds in points])
    gradient = scaled.T @ (scaled @ found - 1) / np.linalg.norm(scaled, axis=0)
    assert (gradient > -1e-8).all()
    assert np.abs(gradient[found > 0]).max() < 1e-8


def choose_by_search(seconds: list[float], coverage: list[float], anchor: float, bound: float) -> int:
    """The rule of the module, tried on every candidate."""
    fits = [place for place in range(len(RATIOS)) if seconds[place] <= anchor]
    if seconds[OWN] <= anchor:
        return max(fits)
    allowed = [place for place in fits if coverage[OWN] - coverage[place] <= bound]
    return max(allowed, default=OWN)


def test_chosen_budgets_against_a_search() -> None:
    generator = np.random.default_rng(3)
    outcomes = set()
    for _ in range(300):
        seconds = np.sort(generator.uniform(0, 1, len(RATIOS)))
        coverage = np.sort(generator.uniform(0.5, 1, len(RATIOS)))
        anchor, bound = generator.uniform(0, 1), generator.choice([0.0, 0.05, 0.2])
        found = choose(seconds, coverage, anchor, bound)
        assert found == choose_by_search(seconds.tolist(), coverage.tolist(), anchor, bound)
        outcomes.add(np.sign(found - OWN))
        if found < OWN:
            assert coverage[OWN] - coverage[found] <= bound
    assert outcomes == {-1, 0, 1}


def test_without_an_allowed_budget_the_own_one_is_kept() -> None:
    seconds, flat = np.arange(1.0, 11.0), np.full(len(RATIOS), 0.9)
    steep = np.linspace(0.1, 1.0, len(RATIOS))
    assert choose(seconds, flat, 3.0, 0.1) == 2
    assert choose(seconds, steep, 3.0, 0.1) == OWN  # too much would be lost
    assert choose(seconds, flat, 0.5, 0.1) == OWN  # none is fast enough
    assert choose(seconds, np.full(len(RATIOS), np.nan), 3.0, 0.1) == OWN  # not measured
    equal = np.full(3, 0.1)
    assert choose(np.full(len(RATIOS), 0.1), flat, anchor_of(equal, "mean"), 0.1) == len(RATIOS) - 1


def test_the_plan_is_a_function_of_the_sample_and_keeps_the_set_of_windows() -> None:
    one, other = balancer(assign="sparsity"), balancer(assign="sparsity")
    for first in (24, 0, 8, 16, 0):
        assert one.plan(first).windows.tolist() == other.plan(first).windows.tolist()
    assert sorted(one.plan(8).windows.reshape(-1)) == list(range(BATCH))
    parts = [one.batch(8, range(start, start + 2)) for start in range(0, BATCH, 2)]
    whole = one.batch(8, range(BATCH))
    assert np.concatenate([part.ids for part in parts]).tolist() == whole.ids.tolist()
    assert (whole.ids[:, 0] - 8).tolist() == one.plan(8).windows.reshape(-1).tolist() != list(range(BATCH))


def test_costs_by_length_and_by_sparsity_against_loops() -> None:
    by_length, by_sparsity = balancer(assign="length").plan(0), balancer(assign="sparsity").plan(0)
    for place in range(BATCH):
        starts = [*Bimodal().sample(place).starts, LENGTH]
        lengths = [end - start for start, end in itertools.pairwise(starts)]
        assert by_length.costs[place] == sum(n * (n + 1) / 2 for n in lengths)
        seconds = 0.0
        for n in lengths:
            attended = sum(min(t + 1, 8) for t in range(n))
            seconds += COEFFICIENTS[0] + COEFFICIENTS[1] * n + COEFFICIENTS[2] * attended
            seconds += COEFFICIENTS[3] * n * (n + 1) / 2
        assert by_sparsity.costs[place] == pytest.approx(2 * 2 * seconds, rel=1e-12)  # layers, modules


@pytest.mark.parametrize("anchor", ["mean", "min", "max"])
def test_budgets_of_a_step_meet_the_anchor_within_the_bound(anchor: str) -> None:
    planner = balancer(assign="none", budgets=anchor, coverage_loss=0.1)
    shares = [1 - 0.1 * max(0.0, 1 - ratio) for ratio in RATIOS]
    planner.coverage.values_LKR[0] = shares
    planner.coverage.values_LKR[1] = [0.5 * ratio for ratio in RATIOS]  # the second layer loses too much
    plan = planner.plan(0)
    moved = planner.moved(plan)
    assert moved.coverage_loss <= 0.1 + 1e-12
    assert (moved.ratios[1] >= 1).all()
    for turn, windows in enumerate(plan.windows.T):
        own = [planner.latency.seconds(plan.lengths[window]) / 2 for window in windows]
        goal = {"mean": np.mean, "min": min, "max": max}[anchor](own) * (1 + 1e-9)
        for group, window in enumerate(windows):
            if moved.ratios[0, group, turn] != 1:
                assert planner.latency.seconds(plan.lengths[window], moved.budgets[0, group, turn]) / 2 <= goal
    if anchor == "max":
        assert (moved.ratios >= 1).all()
    else:
        assert (moved.ratios[0] < 1).any()
    expected = moved.seconds.sum(axis=(0, 2))
    assert planner.figures(plan, moved)["imbalance"] == pytest.approx(expected.max() / expected.mean())


def test_windows_with_their_own_budgets_are_predicted_and_keep_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equally long windows, of which some attend to few keys."""

    def sample(_self: Bimodal, number: int) -> Window:
        return Window(np.arange(LENGTH + 1) + number, np.array([0]), budget=2 if number % 2 else None)

    monkeypatch.setattr(Bimodal, "sample", sample)
    planner = balancer(assign="sparsity", budgets="mean")
    planner.coverage.values_LKR[:] = 1.0
    plan = planner.plan(0)
    assert [int(window) % 2 for window in plan.windows.T.reshape(-1)] == [0] * 4 + [1] * 4
    assert plan.costs[1] == pytest.approx(4 * float(np.array(COEFFICIENTS) @ terms(np.array([LENGTH]), 2)))
    budgets = planner.moved(plan).budgets
    assert (budgets[:, plan.windows % 2 == 1] == 2).all()
    assert (budgets[:, plan.windows % 2 == 0] >= 8).all()
    assert len(set(balancer(assign="length").plan(0).costs)) == 1


def test_coverage_is_averaged_by_tokens_and_survives_json() -> None:
    import torch

    coverage = Coverage(2, decay=0.5)
    assert np.isnan(coverage.of(0, np.array([3]))).all()
    sums = torch.zeros(2, BUCKETS, len(RATIOS) + 1, dtype=torch.float64)
    sums[1, 2] = torch.tensor([2.0] * len(RATIOS) + [4.0])  # lengths 2 and 3
    sums[1, 4] = torch.tensor([8.0] * len(RATIOS) + [8.0])  # lengths 8 to 15
    coverage.add(sums)
    assert coverage.of(1, np.array([3, 9]))[0] == pytest.approx((3 * 0.5 + 9 * 1.0) / 12)
    assert np.isnan(coverage.of(1, np.array([3, 30]))).all()
    sums[1, 2, :-1] = 4.0
    coverage.add(sums)
    assert coverage.of(1, np.array([2]))[OWN] == pytest.approx(0.75)
    other = Coverage(2, decay=0.5)
    other.restore(json.loads(json.dumps(coverage.state())))
    np.testing.assert_array_equal(other.values_LKR, coverage.values_LKR)


def test_candidates() -> None:
    assert candidates(8) == (2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
    assert candidates(1)[OWN] == 1
