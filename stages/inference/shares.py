"""Equal shares of a budget at several levels, for example clients, their requests and the sequences of these."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Claim(NamedTuple):
    """A claim to `demand` units; claims whose paths begin alike share what their common beginning is given."""

    path: tuple[Hashable, ...]
    demand: int


class FairShares:
    """Splits budgets. What cannot be divided goes to those that have waited longest, so that each has its turn."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[tuple[Hashable, ...], int] = {}  # when a path was last given something, or came

    def split(self, budget: int, claims: Sequence[Claim]) -> list[int]:
        """What each of `claims`, which have different paths of one length, is given of `budget`."""
        self._turn += 2
        last = self._last
        self._last = {}
        demands = [claim.demand for claim in claims]
        if sum(demands) <= budget:
            return demands
        given = [0] * len(claims)
        self._split(budget, claims, range(len(claims)), 1, last, given)
        return given

    def _split(
        self,
        budget: int,
        claims: Sequence[Claim],
        members: Sequence[int],
        level: int,
        last: dict[tuple[Hashable, ...], int],
        given: list[int],
    ) -> None:
        below: dict[tuple[Hashable, ...], list[int]] = {}
        for member in members:
            below.setdefault(claims[member].path[:level], []).append(member)
        order = sorted(below, key=lambda path: last.get(path, self._turn))
        demands = [sum(claims[member].demand for member in below[path]) for path in order]
        for path, amount in zip(order, _fill(budget, demands), strict=True):
            # Who is new queues up behind all who were there before, and who was served behind those who were not.
            self._last[path] = self._turn + 1 if amount else last.get(path, self._turn)
            if level < len(claims[below[path][0]].path):
                self._split(amount, claims, below[path], level + 1, last, given)
            else:
                given[below[path][0]] = amount


def _fill(budget: int, demands: Sequence[int]) -> list[int]:
    """Raise all shares equally until `budget` is spent, none over its demand; a remainder goes to the first ones."""
    given = [0] * len(demands)
    short = [index for index, demand in enumerate(demands) if demand]
    while budget and short:
        each = budget // len(short)
        for index in short if each else short[:budget]:
            more = min(max(each, 1), demands[index] - given[index])
            given[index] += more
            budget -= more
        short = [index for index in short if given[index] < demands[index]]
    return given
