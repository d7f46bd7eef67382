"""Batches: order, window, errors of one request and of the engine, and cancellation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from longcat.pipeline.errors import InputError, LongcatError, MachineError
from longcat.stages.inference.batch import BatchRequest, run_batch
from longcat.stages.inference.continuation import Delta
from longcat.stages.inference.jobs import CancelledError, Finished, Job, PromptDelta
from longcat.stages.inference.sampling import SamplingParams


class FakeEngine:
    """Answers a job with its ids, choice by choice, when the test says so, on another thread."""

    def __init__(self, errors: dict[int, Exception] | None = None) -> None:
        self.jobs: list[Job] = []
        self.cancelled: list[Job] = []
        self.errors = errors or {}

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def cancel(self, job: Job) -> None:
        self.cancelled.append(job)
        job.emit(Finished(CancelledError()))

    def finish(self, number: int) -> None:
        thread = threading.Thread(target=self._finish, args=(number,))
        thread.start()
        thread.join()

    def _finish(self, number: int) -> None:
        job = self.jobs[number]
        for choice in range(job.choices):
            for token in job.prompts[0]:
                job.emit(PromptDelta(0, Delta(choice, f"{token}", (token,))))
            job.emit(PromptDelta(0, Delta(choice, f"c{choice}", (9, 9), finish_reason="stop")))
        job.emit(Finished(self.errors.get(number)))


class Eager(FakeEngine):
    """Answers at once."""

    def submit(self, job: Job) -> None:
        super().submit(job)
        self.finish(len(self.jobs) - 1)


def requests(count: int) -> Iterator[BatchRequest]:
    return (BatchRequest([number], SamplingParams(seed=number), choices=1 + number % 2) for number in range(count))


def test_outcomes_are_in_the_order_of_the_requests() -> None:
    outcomes = list(run_batch(Eager(), requests(4), window=3))
    assert [[(choice.text, choice.tokens, choice.finish_reason) for choice in one.choices] for one in outcomes] == [
        [("0c0", 3, "stop")],
        [("1c0", 3, "stop"), ("1c1", 3, "stop")],
        [("2c0", 3, "stop")],
        [("3c0", 3, "stop"), ("3c1", 3, "stop")],
    ]
    assert [one.prompt_tokens for one in outcomes] == [1] * 4


def test_a_window_of_requests_runs_at_a_time_and_a_late_one_is_waited_for() -> None:
    engine = FakeEngine()
    outcomes = run_batch(engine, requests(6), window=3)
    got: list[Any] = []
    started = threading.Thread(target=lambda: got.append(next(outcomes)))
    started.start()
    while len(engine.jobs) < 3:
        pass
    engine.finish(2)
    engine.finish(1)
    assert len(engine.jobs) == 3
    engine.finish(0)
    started.join()
    assert got[0].choices[0].text == "0c0"
    assert next(outcomes).choices[0].text == "1c0"
    assert next(outcomes).choices[0].text == "2c0"
    outcomes.close()


def test_a_request_that_fails_does_not_end_the_others() -> None:
    mixed = [BatchRequest([1]), BatchRequest(error=InputError("too long")), BatchRequest([2]), BatchRequest([3])]
    outcomes = list(run_batch(Eager({1: LongcatError("not finite")}), mixed, window=2))
    assert [str(one.error) for one in outcomes] == ["None", "too long", "not finite", "None"]
    assert outcomes[2].choices == []


@pytest.mark.parametrize("error", [MachineError("no memory"), RuntimeError("bug")])
def test_a_failure_of_the_engine_ends_the_batch_and_cancels_the_rest(error: Exception) -> None:
    engine = FakeEngine({0: error})
    outcomes = run_batch(engine, requests(3), window=3)
    threading.Timer(0.05, lambda: engine.finish(0)).start()
    with pytest.raises(type(error)):
        next(outcomes)
    assert engine.cancelled == engine.jobs[1:]


def test_leaving_cancels_what_runs() -> None:
    engine = FakeEngine()
    outcomes = run_batch(engine, requests(3), window=2)
    threading.Timer(0.05, lambda: engine.finish(0)).start()
    next(outcomes)
    outcomes.close()
    assert engine.cancelled == engine.jobs[1:]
