"""The learning rate as a function of the position."""

from __future__ import annotations

import math

import pytest

from longcat.stages.train.config import ScheduleOptions, step_count
from longcat.stages.train.optim.schedule import Schedule


def rates(total: int, **options: object) -> list[float]:
    schedule = Schedule.of(ScheduleOptions.model_validate(options), 1.0, total)
    return [schedule.learning_rate(position) for position in range(total + 2)]


def test_wsd() -> None:
    values = rates(20, warmup_steps=4, decay_fraction=0.25, minimum_ratio=0.2)
    assert values[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert values[4:15] == [1.0] * 11
    assert values[15:20] == pytest.approx([0.84, 0.68, 0.52, 0.36, 0.2])
    assert values[20:] == pytest.approx([0.2, 0.2])


def test_warm_up_from_a_rate() -> None:
    schedule = Schedule.of(ScheduleOptions(warmup_steps=4), 1.0, 20, start=0.2)
    values = [schedule.learning_rate(position) for position in range(6)]
    assert values == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


def test_the_highest_rate_within_some_steps() -> None:
    schedule = Schedule.of(ScheduleOptions(warmup_steps=4, decay_fraction=0.25, minimum_ratio=0.2), 1.0, 20)
    assert [schedule.peak_within(first, 2) for first in (0, 1, 2, 4, 15)] == pytest.approx([0.5, 0.75, 1, 1, 0.84])
    assert schedule.peak_within(0, 20) == 1
    assert Schedule.of(ScheduleOptions(warmup_steps=4), 1.0, 20, start=5.0).peak_within(0, 9) == 4


def test_cosine() -> None:
    values = rates(12, kind="cosine", warmup_steps=2, minimum_ratio=0.0)
    assert values[:2] == [0.5, 1.0]
    assert values[2:12] == pytest.approx([0.5 * (1 + math.cos(math.pi * n / 10)) for n in range(1, 11)])
    assert values[11:] == pytest.approx([0.0] * 3, abs=1e-12)


def test_constant() -> None:
    assert rates(6, kind="constant", warmup_steps=3) == pytest.approx([1 / 3, 2 / 3] + [1.0] * 6)


def test_without_warmup_or_decay() -> None:
    assert rates(5, warmup_steps=0, decay_fraction=0) == [1.0] * 7
    assert rates(1, kind="cosine", warmup_steps=1)[0] == 1.0


def test_default_warmup_is_a_twentieth_up_to_2000_steps() -> None:
    assert Schedule.of(ScheduleOptions(), 1.0, 400).warmup_steps == 20
    assert Schedule.of(ScheduleOptions(), 1.0, 7).warmup_steps == 1
    assert Schedule.of(ScheduleOptions(), 1.0, 10**6).warmup_steps == 2000


def test_a_longer_schedule_than_the_run() -> None:
    options = ScheduleOptions(total_steps=1000, warmup_steps=10)
    assert Schedule.of(options, 1.0, 400) == Schedule.of(options, 1.0, 1000)
    assert Schedule.of(options, 1.0, 400).progress(400) == 0.4


def test_length_in_tokens_rounds_up() -> None:
    assert step_count(None, 1000, 100) == 10
    assert step_count(None, 1001, 100) == 11
    assert step_count(7, None, 100) == 7
