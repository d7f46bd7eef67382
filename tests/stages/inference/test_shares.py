"""Shares of a budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.inference.shares import Claim, FairShares


def split(budget: int, claims: dict[str, int], shares: FairShares | None = None) -> list[int]:
    listed = [Claim(tuple(path), demand) for path, demand in claims.items()]
    return (shares or FairShares()).split(budget, listed)


def test_equal_between_clients_then_requests_then_sequences() -> None:
    assert split(24, {"a11": 99, "a12": 99, "a21": 99, "b11": 99}) == [3, 3, 6, 12]


def test_what_one_does_not_need_goes_to_the_others() -> None:
    assert split(12, {"a11": 1, "b11": 99, "c11": 3}) == [1, 8, 3]
    assert split(99, {"a11": 1, "b11": 2}) == [1, 2]


def test_a_budget_below_the_number_of_claims_goes_round() -> None:
    shares = FairShares()
    turns = [split(1, {"a11": 9, "b11": 9, "c11": 9}, shares) for _ in range(6)]
    assert [turn.index(1) for turn in turns] == [0, 1, 2, 0, 1, 2]


def test_newcomers_do_not_pass_those_who_wait() -> None:
    shares = FairShares()
    split(1, {"a11": 9, "b11": 9}, shares)
    assert split(1, {"c11": 9, "b11": 9, "a11": 9}, shares) == [0, 1, 0]


paths = st.tuples(st.sampled_from("ab"), st.sampled_from("cd"), st.integers(0, 5))


@given(st.integers(0, 40), st.dictionaries(paths, st.integers(0, 20), max_size=12))
def test_the_budget_is_spent_and_no_demand_exceeded(budget: int, demands: dict[tuple[str, str, int], int]) -> None:
    given_ = FairShares().split(budget, [Claim(path, demand) for path, demand in demands.items()])
    assert sum(given_) == min(budget, sum(demands.values()))
    assert all(0 <= amount <= demand for amount, demand in zip(given_, demands.values(), strict=True))
