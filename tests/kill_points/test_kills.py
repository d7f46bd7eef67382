"""Kills at every system call that changes a store: nothing is lost, and rerunning the command succeeds."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.kill_points.conftest import Harness

# About 250 calls in a minute; `make test-slow` tests all of them.
QUICK = (("publish-extract",), ("gc", "gc-damaged"), ("fsck", "remove", "restore", "rename", "pin"))
REST = (
    ("discard",), ("resume",), ("take-back",), ("gc-again",), ("gc-now",), ("gc-expired",), ("gc-leftover",),
    ("unpin", "copy"), ("publish-toys",),
)  # fmt: skip
POINTS = 90, 40, 40


def check(reports: dict[str, dict[str, Any]], points: int) -> None:
    problems = {name: report["problems"] for name, report in reports.items() if report["problems"]}
    assert problems == {}
    assert sum(report["points"] for report in reports.values()) >= points
    # The calls of a run are deterministic, so each point was reached.
    assert sum(report["missed"] for report in reports.values()) == 0


@pytest.mark.parametrize(("names", "points"), list(zip(QUICK, POINTS, strict=True)), ids=("publish", "gc", "repair"))
def test_a_kill_at_every_call_that_changes_the_store(harness: Harness, names: tuple[str, ...], points: int) -> None:
    check(harness("kills", *names), points)


def test_the_harness_detects_a_wrong_order_of_writes(harness: Harness) -> None:
    (report,) = harness("kills", "careless").values()
    lost = [line for problem in report["problems"] for line in problem["wrong"]]
    assert any(re.fullmatch(r"missing: store/documents/\w+/shard-00000.jsonl.zst", line) for line in lost)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("names", REST, ids="+".join)
def test_a_kill_at_every_other_call_that_changes_the_store(harness: Harness, names: tuple[str, ...]) -> None:
    check(harness("kills", *names), 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("names", (*QUICK, *REST), ids="+".join)
@pytest.mark.parametrize("how", ["--every", "--tear", "--backwards"])
def test_a_kill_at_every_call(harness: Harness, names: tuple[str, ...], how: str) -> None:
    check(harness("kills", *names, how), 1)


MOMENTS = ("published-gc", "reading-gc")
MEETINGS = ("publish-gc", "publish-gc-now", "resume-gc", "resume-gc-now", "gc-resume", "gc-now-resume", "read-gc")
MORE_MEETINGS = ("gc-read", "same-twice", "gc-twice", "publish-remove", "restore-publish", "publish-damaged")


@pytest.mark.parametrize("name", MOMENTS)
def test_gc_keeps_the_data_of_a_stopped_process(harness: Harness, name: str) -> None:
    check(harness("meetings", name), 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", (*MEETINGS, *MORE_MEETINGS))
def test_two_concurrent_commands_at_every_call(harness: Harness, name: str) -> None:
    check(harness("meetings", name), 1)
