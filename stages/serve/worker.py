"""One decode worker behind a bounded queue: who asks waits here, and who leaves is forgotten within a step."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from longcat.pipeline.errors import LongcatError
from longcat.stages.serve.engine import CancelledError, Delta, InferenceEngine
from longcat.stages.serve.metrics import ServerMetrics
from longcat.stages.serve.sampling import SamplingParams, TokenLogprobs

logger = logging.getLogger(__name__)
JOIN_SECONDS = 30.0


class QueueFullError(Exception):
    """As many jobs wait as may."""


class ClosedError(Exception):
    """The worker takes no more jobs."""


class DeadlineError(Exception):
    """The job took longer than it may."""


@dataclass(frozen=True)
class PromptScores:
    """Log-probabilities of the tokens of prompt number `prompt`."""

    prompt: int
    logprobs: list[TokenLogprobs]


@dataclass(frozen=True)
class PromptDelta:
    """One step of a continuation of prompt number `prompt`."""

    prompt: int
    delta: Delta


@dataclass(frozen=True)
class Finished:
    """The last event of every job; `error` says why it ended early."""

    error: Exception | None = None


Event = PromptScores | PromptDelta | Finished


@dataclass(eq=False)
class Job:
    """What one request wants: every prompt continued `choices` times. Events go to `emit`, on the worker's thread.

    With `score_top` not None the prompts' own log-probabilities come first, each with that many likeliest tokens.
    `deadline` is a value of `time.monotonic()`.
    """

    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    emit: Callable[[Event], None]
    deadline: float
    choices: int = 1
    score_top: int | None = None
    submitted: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)


class DecodeWorker:
    """A thread that runs one job at a time, first come first served."""

    def __init__(self, engine: InferenceEngine, max_queue: int, metrics: ServerMetrics) -> None:
        self._engine = engine
        self._max_queue = max_queue
        self._metrics = metrics
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="decode", daemon=True)
        metrics.gauge("longcat_requests_waiting", "Requests in the queue.", lambda: self.waiting)
        metrics.gauge("longcat_requests_running", "Requests being decoded.", lambda: self._running is not None)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def check_room(self) -> None:
        """Raise as `submit` would, before work is spent on a request."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise ClosedError
        # An idle worker takes a job at once, so it counts as one more place.
        if len(self._waiting) + (self._running is not None) > self._max_queue:
            raise QueueFullError

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: `max_queue` jobs wait already.
            ClosedError: the worker was closed or is dead.
        """
        with self._changed:
            self._check_room()
            self._waiting.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Give a job up: at once if it waits, before its next step if it runs, without effect if it is done."""
        job.cancelled.set()
        with self._changed:
            if job not in self._waiting:
                return
            self._waiting.remove(job)
        self._metrics.cancelled.add()
        job.emit(Finished(CancelledError()))

    def close(self) -> None:
        """Take no more jobs, give up those there are, and end the thread."""
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *([self._running] if self._running else [])]
            self._changed.notify_all()
        for job in jobs:
            self.cancel(job)
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._running = None
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                job = self._running = self._waiting.popleft()
            job.emit(Finished(self._outcome(job)))

    def _outcome(self, job: Job) -> Exception | None:
        try:
            self._run(job)
        except CancelledError as error:
            if job.cancelled.is_set():
                self._metrics.cancelled.add()
                return error
            return DeadlineError()
        except LongcatError as error:
            return error
        except Exception as error:
            logger.exception("a request failed")
            return error
        return None

    def _run(self, job: Job) -> None:
        def given_up() -> bool:
            return job.cancelled.is_set() or time.monotonic() > job.deadline

        first = True
        for number, prompt in enumerate(job.prompts):
            cache = self._engine.new_cache(len(prompt) + job.params.max_tokens)
            if job.score_top is not None:
                scores = self._engine.score(cache, prompt, job.score_top, given_up)
                job.emit(PromptScores(number, scores))
            deltas = self._engine.generate(prompt, job.params, choices=job.choices, cache=cache, cancelled=given_up)
            self._metrics.prompt_tokens.add(len(prompt))
            for delta in deltas:
                if first:
                    self._metrics.first_token_seconds.observe(time.monotonic() - job.submitted)
                    first = False
                self._metrics.generated_tokens.add(len(delta.token_ids))
                job.emit(PromptDelta(number, delta))
