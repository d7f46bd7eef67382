"""Jobs of the engine for HTTP requests: events as an async stream, cancelled on client disconnect."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from starlette.types import Receive

from longcat.pipeline.errors import InputError, LongcatError
from longcat.stages.inference.jobs import (
    CancelledError,
    ClosedError,
    DeadlineError,
    Event,
    Finished,
    Job,
    QueueFullError,
)
from longcat.stages.serve.errors import ApiError, internal_error, invalid, too_busy, unavailable
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.metrics import ServerMetrics
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.token_count import TokenCount

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """Computes jobs."""

    def submit(self, job: Job) -> None:
        """Queue a job; raises QueueFullError or ClosedError."""

    def cancel(self, job: Job) -> None:
        """Cancel a job; no effect if it is finished."""


class Submission:
    """One running job, as seen from the event loop. `count` has the tokens of the events taken so far, and
    `finished` tells whether no more are taken.
    """

    def __init__(
        self,
        worker: Runner,
        settings: ServerSettings,
        metrics: ServerMetrics,
        plan: GenerationRequest,
        key: str = "",
    ) -> None:
        """Submit the job of a plan for client `key`.

        Raises:
            ApiError: 429 if the queue is full, 503 if the worker accepts no more jobs.
        """
        self._worker = worker
        self._settings = settings
        self._metrics = metrics
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        deadline = time.monotonic() + settings.request_seconds
        self._job = Job(plan.prompts, plan.params, self._take, deadline, plan.choices, plan.score_top, key=key)
        self.finished = False
        self.count = TokenCount(tuple(map(len, plan.prompts)))
        with refusals(settings):
            worker.submit(self._job)

    def _take(self, event: Event) -> None:
        # The loop is closed after a forced exit; the event is dropped.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """Cancel the job; no effect on a finished job."""
        self._worker.cancel(self._job)

    def end(self) -> None:
        """End the job because the server ends; to be called on the event loop."""
        self._events.put_nowait(Finished(ClosedError()))
        self.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """Yield all events of the worker before `Finished`.

        Raises:
            ApiError: the job ended early: 400, 499 (client disconnected), 500, 503 (end of the server) or 504 (time
                limit).
        """
        try:
            while True:
                event = await self._events.get()
                if isinstance(event, Finished):
                    break
                self.count.add(event)
                yield event
        finally:
            self.finished = True
            self._measure()
        if event.error is not None:
            raise self._explain(event.error)

    def _measure(self) -> None:
        self._metrics.prompt_tokens.inc(self.count.started)
        self._metrics.generated_tokens.inc(self.count.completion)
        if self.count.first_at is not None:
            self._metrics.first_token_seconds.observe(self.count.first_at - self.count.began_at)
        if self.count.token_seconds is not None:
            self._metrics.token_seconds.observe(self.count.token_seconds)

    def _explain(self, error: Exception) -> ApiError:
        if isinstance(error, DeadlineError):
            message = f"the request took longer than {self._settings.request_seconds:g} s"
            return ApiError(504, message, kind="server_error", code="deadline_exceeded")
        if isinstance(error, ClosedError):
            return unavailable("the server is shutting down")
        if isinstance(error, CancelledError):
            self._metrics.cancelled.inc()
            return ApiError(499, "the request was cancelled", kind="server_error", code="cancelled")
        if isinstance(error, InputError):
            return invalid(error.what, param=error.where)
        if isinstance(error, LongcatError):
            logger.error("a request failed: %s", error.what)
        return internal_error()

    @contextmanager
    def watched(self, receive: Receive) -> Iterator[None]:
        """Context in which a client disconnect cancels the job; leaving it cancels an unfinished job."""
        watcher = asyncio.create_task(self._watch(receive))
        try:
            yield
        finally:
            watcher.cancel()
            self.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cancel()


@contextmanager
def refusals(settings: ServerSettings) -> Iterator[None]:
    """Convert the worker's errors to HTTP errors."""
    try:
        yield
    except QueueFullError:
        raise too_busy(settings.retry_seconds) from None
    except ClosedError:
        raise unavailable("the server accepts no more requests") from None
