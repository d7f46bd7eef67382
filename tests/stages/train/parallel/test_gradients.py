"""Gradients of every kind of parallelism compared with one process; see worker.py and cases.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
SECONDS = 280
CASES: list[dict[str, Any]] = yaml.safe_load((HERE / "cases.yaml").read_text())
HALF = [case["name"] for case in CASES if "dtype" in case]
EXACT = [case["name"] for case in CASES if "dtype" not in case]
STEPS = [case["name"] for case in CASES if case.get("step")]
AGAIN = [case["name"] for case in CASES if case.get("again")]
EXPERT = [case["name"] for case in CASES if case.get("options", {}).get("expert", 1) > 1 and not case.get("recompute")]
PIPELINE = [case["name"] for case in CASES if "pipeline" in case.get("options", {})]

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def results(run_cases: Callable[[str, float], Results]) -> Results:
    return run_cases("cases.yaml", SECONDS)


def worst(errors: dict[str, float]) -> tuple[float, str]:
    return max((error, name) for name, error in errors.items())


@pytest.mark.parametrize("case", EXACT)
def test_every_gradient_equals_that_of_one_process(results: Results, case: str) -> None:
    found, expected = results[case]["names"]
    assert found == expected
    assert worst(results[case]["errors"]) < (1e-5, "")
    idle = {name for name in results[case]["zero_gradients"] if "router.residual" not in name}
    assert bool(idle) == (case == "only zero experts")


@pytest.mark.parametrize("case", EXACT)
def test_shared_rotary_key_has_its_full_gradient(results: Results, case: str) -> None:
    assert worst(results[case]["rotary_errors"]) < (1e-5, "")


@pytest.mark.parametrize("case", HALF)
def test_half_precision_differs_by_rounding(results: Results, case: str) -> None:
    assert worst(results[case]["errors"]) < (0.15, "")
    assert results[case]["sums"]["loss"] == pytest.approx(results[case]["expected"]["loss"], rel=2e-3)


@pytest.mark.parametrize("case", EXACT)
def test_loss_counts_and_norm_equal_those_of_one_process(results: Results, case: str) -> None:
    result = results[case]
    assert result["same_counts"]
    assert result["sums"]["loss"] == pytest.approx(result["expected"]["loss"], rel=1e-6)
    assert result["norm"] == pytest.approx(result["expected"]["norm"], rel=1e-6)
    assert result["clipped_norm"] == pytest.approx(1e-2, rel=1e-3)


@pytest.mark.parametrize("case", [case["name"] for case in CASES])
def test_every_value_is_stored_once_per_replica(results: Results, case: str) -> None:
    options = next(line.get("options", {}) for line in CASES if line["name"] == case)
    assert results[case]["sums"]["held"] == results[case]["values"] * options.get("data_replicate", 1)


@pytest.mark.parametrize("case", STEPS)
def test_initial_values_equal_those_of_a_whole_model(results: Results, case: str) -> None:
    assert results[case]["same_start"]


@pytest.mark.parametrize("case", STEPS)
def test_optimizer_step_equals_that_of_one_process(results: Results, case: str) -> None:
    assert worst(results[case]["updates"]) < (1e-5, "")
    # Evaluation before and after the step: parameters gathered for the first must not be reused for the second.
    moved, expected = results[case]["moved"]
    assert moved == pytest.approx(expected, rel=1e-4)
    assert abs(expected) > 1


@pytest.mark.parametrize("case", STEPS)
def test_whole_tensors_load_into_shards(results: Results, case: str) -> None:
    assert results[case]["same_loaded"]


@pytest.mark.parametrize("case", AGAIN)
def test_overlap_changes_no_bit(results: Results, case: str) -> None:
    assert results[case]["same_without_overlap"]


@pytest.mark.parametrize("case", EXPERT)
def test_rows_are_sent_only_to_ffn_experts(results: Results, case: str) -> None:
    # Every slot once to its expert and once back; pipelines evaluate as well.
    passes = 2 if case in PIPELINE else 1
    assert results[case]["sums"]["sent"] == passes * 2 * results[case]["expert_slots"]


@pytest.mark.parametrize("case", PIPELINE)
def test_pipeline_evaluates_the_objective(results: Results, case: str) -> None:
    assert results[case]["sums"]["evaluated"] == pytest.approx(results[case]["expected"]["loss"], rel=2e-3)
