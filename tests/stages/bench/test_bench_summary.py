"""Figures of a load test from known times, and arrivals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longcat.stages.bench.serve.arrivals import poisson
from longcat.stages.bench.serve.client import Record, has_text
from longcat.stages.bench.serve.summary import percentile, summarize

COMPLETE = Record(10.0, 10.5, [11.5, 12.0, 14.0], 14.5, prompt_tokens=7, output_tokens=5)


def test_times_of_one_answer() -> None:
    summary = summarize([COMPLETE], 5.0).to_json()
    assert summary["ttft_ms"]["mean"] == 1000  # from sending, not from when it was due
    assert summary["e2e_ms"]["mean"] == 4000
    assert summary["tpot_ms"]["mean"] == 3000 / 4
    assert (summary["itl_ms"]["mean"], summary["itl_ms"]["max"]) == (1250, 2000)
    assert summary["client_lag_ms"] == 500
    assert (summary["request_throughput"], summary["output_throughput"], summary["total_token_throughput"]) == (
        0.2,
        1.0,
        2.4,
    )


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    summary = summarize([Record(0, 0, [1.0], 1.0, output_tokens=1)], 1.0)
    assert summary.tpot is None and summary.itl is None and summary.prompt_tokens is None
    assert summary.to_json()["total_token_throughput"] is None


def test_failed_requests_are_counted_by_error_and_excluded() -> None:
    failed = [Record(0, 0, error="429", detail="first"), Record(0, 0, error="429", detail="second")]
    summary = summarize([COMPLETE, *failed, Record(0, 0, [5.0], error="stream", detail="cut")], 5.0)
    assert (summary.requests, summary.completed) == (4, 1)
    assert summary.errors == {"429": 2, "stream": 1} and summary.details["429"] == "first"
    assert summary.ttft is not None and summary.ttft.mean == 1000
    nothing = summarize(failed, 0.0)
    assert nothing.ttft is None and nothing.request_throughput == 0


def test_without_usage_a_chunk_is_a_token() -> None:
    summary = summarize([COMPLETE, Record(0, 0, [1.0, 2.0], 2.0)], 5.0)
    assert summary.output_tokens == 7 and summary.to_json()["tokens_from"] == "chunks"


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0, 50, 90, 99, 100]))
def test_percentiles_are_those_of_numpy(values: list[float], number: int) -> None:
    assert percentile(values, number) == pytest.approx(float(np.percentile(values, number)), abs=1e-6)


def test_arrivals_are_a_seeded_poisson_process() -> None:
    due = poisson(4.0, 4000, seed=1)
    assert due == poisson(4.0, 4000, seed=1) != poisson(4.0, 4000, seed=2)
    gaps = np.diff([0.0, *due])
    assert due[-1] == pytest.approx(1000) and (gaps > 0).all()
    # Mean and deviation of an exponential distribution are equal.
    assert gaps.std() == pytest.approx(0.25, rel=0.05)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, False),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"content": "a"}}, True),
        ({"delta": {"reasoning_content": "a"}}, True),
        ({"delta": {"tool_calls": [{"index": 0}]}}, True),
        ({"delta": {}, "finish_reason": "stop"}, False),
        ({"delta": None}, False),
        (3, False),
    ],
)
def test_only_what_the_model_generated_counts_as_a_chunk(choice: object, expected: bool) -> None:
    assert has_text(choice) is expected
