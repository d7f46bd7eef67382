"""Retries after a pause."""

from __future__ import annotations

import pytest

from longcat.pipeline import retry
from longcat.pipeline.retry import Retry


class Fails:
    """Fails the given number of times, then succeeds."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.left -= 1
        if self.left >= 0:
            raise OSError("not yet")
        return "well"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", slept.append)
    return slept


def test_pauses_grow_until_success(pauses: list[float]) -> None:
    action = Fails(3)
    assert Retry(4, 0.5, growth=2).call(action, lambda error: True) == "well"
    assert (action.calls, pauses) == (4, [0.5, 1.0, 2.0])


def test_the_last_error_is_raised(pauses: list[float]) -> None:
    action = Fails(9)
    with pytest.raises(OSError, match="not yet"):
        Retry(2, 0.5).call(action, lambda error: True)
    assert (action.calls, pauses) == (2, [0.5])


def test_permanent_errors_are_not_retried(pauses: list[float]) -> None:
    action = Fails(1)
    with pytest.raises(OSError, match="not yet"):
        Retry(4, 0.5).call(action, lambda error: isinstance(error, KeyError))
    assert (action.calls, pauses) == (1, [])
