"""Gradients of context parallelism at 32,768 tokens compared with one process; see worker.py and long_cases.yaml.

To print the errors: `python worker.py FOLDER long_cases.yaml`, in results.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

SECONDS = 3400
CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "long_cases.yaml").read_text())
pytestmark = [pytest.mark.slow, pytest.mark.timeout(SECONDS + 100)]


@pytest.fixture(scope="module")
def results(run_cases: Callable[..., dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    return run_cases("long_cases.yaml", SECONDS)


def test_the_cases_are_long() -> None:
    assert {(case["length"], case["options"]["context"]) for case in CASES} == {(32768, 2), (32768, 4)}
    assert {case.get("documents", False) for case in CASES} == {True, False}


@pytest.mark.parametrize("case", [case["name"] for case in CASES])
def test_every_gradient_equals_that_of_one_process(results: dict[str, dict[str, Any]], case: str) -> None:
    result = results[case]
    assert result["names"][0] == result["names"][1]
    for errors in (result["errors"], result["rotary_errors"]):
        assert max(errors.values()) < 1e-5
    assert result["norm"] == pytest.approx(result["expected"]["norm"], rel=1e-6)
    assert result["sums"]["loss"] == pytest.approx(result["expected"]["loss"], rel=1e-6)
    assert result["same_counts"]
