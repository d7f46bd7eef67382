"""From an HTTP request to a job of the decode worker and back: events as an async stream, cancelled with the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

from starlette.types import Receive

from longcat.pipeline.errors import InputError
from longcat.stages.serve.engine import CancelledError
from longcat.stages.serve.errors import ApiError, internal_error, invalid, too_busy, unavailable
from longcat.stages.serve.sampling import SamplingParams
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.worker import ClosedError, DeadlineError, DecodeWorker, Event, Finished, Job, QueueFullError


class Submission:
    """One job under way, seen from the event loop."""

    def __init__(
        self,
        worker: DecodeWorker,
        settings: ServerSettings,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        choices: int,
        score_top: int | None = None,
    ) -> None:
        """Submit the job.

        Raises:
            ApiError: 429 when the queue is full, 503 when the worker takes no more jobs.
        """
        self._worker = worker
        self._settings = settings
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self.prompt_tokens = sum(map(len, prompts))
        deadline = time.monotonic() + settings.request_seconds
        self._job = Job(prompts, params, self._take, deadline, choices, score_top)
        with refusals(settings):
            worker.submit(self._job)

    def _take(self, event: Event) -> None:
        # The loop is closed when the server has been forced to exit; nobody is left to hear the event.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def cancel(self) -> None:
        """The client is gone; without effect on a finished job."""
        self._worker.cancel(self._job)

    async def events(self) -> AsyncIterator[Event]:
        """Everything the worker reports, up to and without `Finished`.

        Raises:
            ApiError: the job ended early: 400, 499 (its client left), 500 or 504 (its time was up).
        """
        while True:
            event = await self._events.get()
            if not isinstance(event, Finished):
                yield event
                continue
            if event.error is not None:
                raise self._explain(event.error)
            return

    def _explain(self, error: Exception) -> ApiError:
        if isinstance(error, DeadlineError):
            message = f"the request took longer than {self._settings.request_seconds:g} s"
            return ApiError(504, message, kind="server_error", code="deadline_exceeded")
        if isinstance(error, CancelledError):
            return ApiError(499, "the request was given up", kind="server_error", code="cancelled")
        if isinstance(error, InputError):
            return invalid(error.what, param=error.where)
        return internal_error()

    @contextmanager
    def watched(self, receive: Receive) -> Iterator[None]:
        """Within it a client that disconnects cancels the job; leaving it cancels whatever is left of the job."""
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
    """Turn the worker's refusals into answers."""
    try:
        yield
    except QueueFullError:
        raise too_busy(settings.retry_seconds) from None
    except ClosedError:
        raise unavailable("the server takes no more requests") from None
