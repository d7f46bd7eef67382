"""The engine's thread: jobs from any thread, room, and its two ways to end."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest

from longcat.stages.inference.engine_thread import EngineThread
from longcat.stages.inference.jobs import CancelledError, ClosedError, Event, Finished, Job, QueueFullError
from longcat.stages.inference.options import EngineOptions
from longcat.stages.inference.sampling import SamplingParams


class Counting:
    """An engine whose jobs take as many steps as they ask for tokens, one step per `gate.release()`."""

    def __init__(self, max_sequences: int = 1) -> None:
        self.options = EngineOptions(max_sequences=max_sequences)
        self.gate = threading.Semaphore(0)
        self.left: dict[Job, int] = {}
        self.fails = False

    @property
    def running(self) -> int:
        return len(self.left)

    def submit(self, job: Job) -> None:
        self.left[job] = job.params.max_tokens

    def holds(self, job: Job) -> bool:
        return job in self.left

    def step(self) -> None:
        self.gate.acquire()
        if self.fails:
            raise RuntimeError("broken")
        for job in list(self.left):
            self.left[job] -= 1
            if job.cancelled.is_set() or not self.left[job]:
                del self.left[job]
                job.emit(Finished(CancelledError() if job.cancelled.is_set() else None))


def job(tokens: int) -> tuple[Job, Callable[[], Event]]:
    """A job, and a function that waits for its last event."""
    done, events = threading.Event(), []

    def emit(event: Event) -> None:
        events.append(event)
        done.set()

    def last() -> Event:
        assert done.wait(20)
        assert len(events) == 1
        return events[0]

    return Job([[1]], SamplingParams(max_tokens=tokens), emit, math.inf), last


def started(engine: Any, max_queue: int = 4) -> EngineThread:
    thread = EngineThread(engine, max_queue)
    thread.start()
    return thread


def test_a_retired_thread_finishes_its_jobs_and_takes_no_others() -> None:
    engine = Counting()
    thread = started(engine)
    (first, first_ends), (second, _) = job(3), job(1)
    thread.submit(first)
    waiting = threading.Thread(target=thread.retire)
    waiting.start()
    while True:
        try:
            thread.check_room()
        except ClosedError:
            break
    with pytest.raises(ClosedError):
        thread.submit(second)
    engine.gate.release(3)
    assert first_ends() == Finished(None)
    waiting.join(20)
    assert not thread.alive


def test_a_closed_thread_cancels_its_jobs() -> None:
    engine = Counting()
    thread = started(engine)
    first, ends = job(1000)
    thread.submit(first)
    engine.gate.release(2)
    thread.close()
    last = ends()
    assert isinstance(last, Finished)
    assert isinstance(last.error, CancelledError)
    assert not thread.alive


def test_jobs_beyond_the_queue_are_refused_and_cancelled_ones_free_their_place() -> None:
    engine = Counting(max_sequences=2)
    thread = started(engine, max_queue=1)
    jobs = [job(1) for _ in range(3)]
    for one, _ in jobs:
        thread.submit(one)
    extra, extra_ends = job(1)
    with pytest.raises(QueueFullError):
        thread.submit(extra)
    thread.cancel(jobs[2][0])
    thread.submit(extra)
    engine.gate.release(100)
    assert extra_ends() == Finished(None)
    thread.close()


def test_a_failed_engine_ends_all_jobs_with_the_error(caplog: pytest.LogCaptureFixture) -> None:
    engine = Counting()
    engine.fails = True
    thread = started(engine)
    first, ends = job(5)
    thread.submit(first)
    engine.gate.release(1)
    last = ends()
    assert isinstance(last, Finished)
    assert isinstance(last.error, RuntimeError)
    with pytest.raises(ClosedError):
        thread.check_room()
    assert "the engine has failed" in caplog.text
