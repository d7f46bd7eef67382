"""State shared by the routes of a server."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from starlette.types import ASGIApp, Receive, Scope, Send

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.engine_thread import EngineThread
from longcat.stages.inference.snapshot import EngineSnapshot, Monitored
from longcat.stages.serve.answer_bodies import ModelCard
from longcat.stages.serve.connections import OPEN_ROUTES
from longcat.stages.serve.errors import ApiError, unavailable
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.grammars import Grammars
from longcat.stages.serve.metrics import ServerMetrics
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.submission import Runner, Submission, refusals

TEMPLATE_THREADS = 2
TEXT_THREADS = 4
T = TypeVar("T")
ENDING = "the server is shutting down"


class JobRunner(Runner, Monitored, Protocol):
    """What a service needs of an engine's thread besides submitting jobs."""

    @property
    def alive(self) -> bool:
        """Whether jobs are computed."""

    def start(self) -> None:
        """Begin to compute jobs."""

    def check_room(self) -> None:
        """Raise like `submit`, before work is spent on a request."""

    def close(self) -> None:
        """Reject new jobs, cancel existing ones, and end."""

    def retire(self) -> None:
        """Reject new jobs, finish existing ones, and end; waits for that."""


@dataclass(frozen=True, eq=False)
class Served:
    """What answers requests; a request keeps to one from its first byte to its last."""

    engine: InferenceEngine
    worker: JobRunner
    grammars: Grammars


class Service:
    """The engine, its queue and metrics, and whether the server takes requests."""

    def __init__(self, engine: InferenceEngine, settings: ServerSettings, worker: JobRunner | None = None) -> None:
        """`worker` computes the jobs, by default a thread of the engine."""
        self.settings = settings
        self.served = self.serving(engine, worker)
        # A chat template is a program, and a hostile one takes seconds for each chat: nothing else waits for it.
        self._templates = ThreadPoolExecutor(TEMPLATE_THREADS, "template")
        self._texts = ThreadPoolExecutor(TEXT_THREADS, "text")
        self.metrics = ServerMetrics(self)
        self.draining = False
        self._aborted = False
        self._preparing: set[asyncio.Future[Any]] = set()
        self._submissions: weakref.WeakSet[Submission] = weakref.WeakSet()

    def serving(self, engine: InferenceEngine, worker: JobRunner | None = None) -> Served:
        """An engine with all that it needs to answer requests; its worker is not started."""
        worker = worker or EngineThread(engine, self.settings.max_queue)
        return Served(engine, worker, Grammars(engine, self.settings))

    @property
    def engine(self) -> InferenceEngine:
        """The engine of requests that arrive now."""
        return self.served.engine

    @property
    def worker(self) -> JobRunner:
        """The worker of requests that arrive now."""
        return self.served.worker

    def snapshot(self) -> EngineSnapshot:
        """Counts of the present worker."""
        return self.worker.snapshot()

    @property
    def card(self) -> ModelCard:
        """Description of the served model."""
        return ModelCard(id=self.settings.model_name, max_model_len=self.engine.max_length)

    def check_model(self, name: str) -> None:
        """Raise ApiError 404 for a model that is not served here."""
        if name != self.settings.model_name:
            message = f"the model {name!r} is not served here, {self.settings.model_name!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_ready(self) -> None:
        """Raise ApiError 503 while no requests are taken."""
        if self.draining:
            raise unavailable(ENDING)
        if not self.worker.alive:
            raise unavailable("the engine has died")

    def check_room(self) -> None:
        """Raise ApiError 429 or 503 before any work, for a request that could not be queued."""
        self.check_ready()
        with refusals(self.settings):
            self.worker.check_room()

    async def unless_aborted(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`, which `abort` ends.

        Raises:
            ApiError: 503 if it was ended.
        """
        task = asyncio.ensure_future(work)
        self._preparing.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            if not self._aborted:
                raise
            raise unavailable(ENDING) from None
        finally:
            self._preparing.discard(task)

    async def off_loop(self, work: Callable[..., T], *given: Any, template: bool) -> T:
        """Run `work` beside the event loop; `template`: it renders a chat template."""
        pool = self._templates if template else self._texts
        return await asyncio.get_running_loop().run_in_executor(pool, work, *given)

    def submit(self, served: Served, plan: GenerationRequest, key: str = "") -> Submission:
        """Queue a plan of client `key` that was made for `served`; see `Submission`."""
        if self._aborted:
            raise unavailable(ENDING)
        submission = Submission(served.worker, self.settings, self.metrics, plan, key)
        self._submissions.add(submission)
        return submission

    def close(self) -> None:
        """End the worker."""
        self.served.grammars.close()
        for pool in (self._templates, self._texts):
            pool.shutdown(wait=False, cancel_futures=True)
        self.worker.close()

    def drain(self) -> None:
        """Answer new requests with 503; running ones continue."""
        self.draining = True

    def abort(self) -> int:
        """End the running requests with 503, in a started stream by an event; returns their number."""
        self.draining = self._aborted = True
        running = [submission for submission in self._submissions if not submission.finished]
        preparing = list(self._preparing)
        for submission in running:
            submission.end()
        for task in preparing:
            task.cancel()
        return len(running) + len(preparing)


class DrainGate:
    """ASGI middleware: 503 and the end of the connection for requests that arrive while the server drains."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._service.draining or scope["path"] in OPEN_ROUTES | {"/metrics"}:
            await self._app(scope, receive, send)
            return
        await unavailable(ENDING).response(scope, close=True)(scope, receive, send)
