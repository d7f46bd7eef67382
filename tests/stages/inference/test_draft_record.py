"""A sequence stops drafting once that clearly does not pay, and not before."""

from __future__ import annotations

import random

import pytest

from longcat.stages.inference.draft_price import DraftPrice
from longcat.stages.inference.draft_record import DraftRecord


def test_drafts_that_are_always_wrong_end_soon() -> None:
    record = DraftRecord()
    steps = 0
    while record.active:
        record.count(0, worth=0.5)
        steps += 1
    assert steps <= 5


def test_the_price_of_its_steps_decides() -> None:
    """Half of the drafts are right: enough in steps of one sequence, not in steps of eight."""
    price = DraftPrice((1, 4), (0.2, 0.9))
    assert [price.of(sequences) for sequences in (1, 2, 4, 32)] == [0.2, 0.9, 0.9, 0.9]
    alone, beside = DraftRecord(), DraftRecord()
    for step in range(40):
        alone.count(step % 2, price.of(1))
        beside.count(step % 2, price.of(8))
    assert alone.active
    assert not beside.active


@pytest.mark.parametrize(("share", "goes_on"), [(0.9, True), (0.7, True), (0.2, False)])
def test_a_share_of_right_drafts_decides(share: float, goes_on: bool) -> None:
    outcomes = []
    for seed in range(100):
        stream, record = random.Random(seed), DraftRecord()
        for _ in range(200):
            if record.active:
                record.count(int(stream.random() < share), worth=0.5)
        outcomes.append(record.active)
    assert sum(outcomes) >= 95 if goes_on else not any(outcomes)
