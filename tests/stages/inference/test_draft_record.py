"""A sequence stops drafting once that clearly does not pay, and not before."""

from __future__ import annotations

import random

import pytest

from longcat.stages.inference.draft_record import DraftRecord


def test_drafts_that_are_always_wrong_end_soon() -> None:
    record = DraftRecord(worth=0.5)
    steps = 0
    while record.active:
        record.count(0)
        steps += 1
    assert steps <= 5


@pytest.mark.parametrize(("share", "goes_on"), [(0.9, True), (0.7, True), (0.2, False)])
def test_a_share_of_right_drafts_decides(share: float, goes_on: bool) -> None:
    outcomes = []
    for seed in range(100):
        stream, record = random.Random(seed), DraftRecord(worth=0.5)
        for _ in range(200):
            if record.active:
                record.count(int(stream.random() < share))
        outcomes.append(record.active)
    assert sum(outcomes) >= 95 if goes_on else not any(outcomes)
