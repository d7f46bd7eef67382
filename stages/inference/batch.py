"""Many requests through one engine, with the answers in the order of the requests."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from longcat.pipeline.errors import LongcatError, MachineError
from longcat.stages.inference.continuation import Delta
from longcat.stages.inference.jobs import Event, Finished, Job, PromptDelta
from longcat.stages.inference.sampling import SamplingParams


class JobRunner(Protocol):
    """What runs jobs, such as an engine on its thread."""

    def submit(self, job: Job) -> None:
        """Start a job; its last event is `Finished`."""

    def cancel(self, job: Job) -> None:
        """End a job early; no effect on a finished one."""


@dataclass(frozen=True)
class BatchRequest:
    """Token ids of a prompt and what to do with them; `error` instead, if the prompt has none."""

    ids: list[int] = field(default_factory=list)
    params: SamplingParams = field(default_factory=SamplingParams)
    choices: int = 1
    error: LongcatError | None = None


@dataclass
class Choice:
    """One answer to a prompt."""

    text: str = ""
    tokens: int = 0
    finish_reason: str | None = None

    def add(self, delta: Delta) -> None:
        """Add one step of the answer."""
        self.text += delta.text
        self.tokens += len(delta.token_ids)
        self.finish_reason = delta.finish_reason or self.finish_reason


@dataclass(frozen=True)
class Outcome:
    """Answers to one request, or why there are none."""

    prompt_tokens: int
    choices: list[Choice]
    error: LongcatError | None = None


def run_batch(runner: JobRunner, requests: Iterable[BatchRequest], window: int) -> Generator[Outcome, None, None]:
    """Run requests and yield their outcomes in order; at most `window` are in the engine or wait for an earlier one.

    A request that fails alone has its error in its outcome. Leaving the iterator cancels what runs.

    Raises:
        MachineError: the machine has failed, which no other request would survive.
        Exception: the engine has failed.
    """
    pending: deque[_Pending] = deque()
    try:
        for request in requests:
            pending.append(_Pending(runner, request))
            while pending and (len(pending) >= window or pending[0].finished.is_set()):
                yield pending[0].outcome()
                pending.popleft()
        while pending:
            yield pending[0].outcome()
            pending.popleft()
    finally:
        for one in pending:
            one.cancel()


class _Pending:
    """A request in the engine. Events arrive on the engine's thread, before `finished` is set."""

    def __init__(self, runner: JobRunner, request: BatchRequest) -> None:
        self._request = request
        self._runner = runner
        self._choices = [Choice() for _ in range(request.choices)]
        self._error: Exception | None = request.error
        self.finished = threading.Event()
        self._job = Job([request.ids], request.params, self._take, math.inf, request.choices)
        if request.error is None:
            runner.submit(self._job)
        else:
            self.finished.set()

    def _take(self, event: Event) -> None:
        if isinstance(event, PromptDelta):
            self._choices[event.delta.choice].add(event.delta)
        elif isinstance(event, Finished):
            self._error = event.error
            self.finished.set()

    def outcome(self) -> Outcome:
        """Wait for the end."""
        self.finished.wait()
        error = self._error
        if error is not None and (isinstance(error, MachineError) or not isinstance(error, LongcatError)):
            raise error
        return Outcome(len(self._request.ids), [] if error else self._choices, error)

    def cancel(self) -> None:
        if not self.finished.is_set():
            self._runner.cancel(self._job)
