"""An engine on a thread of its own, behind a bounded queue."""

from __future__ import annotations

import logging
import threading
from collections import deque

from longcat.pipeline.errors import InputError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.jobs import ClosedError, Finished, Job, QueueFullError
from longcat.stages.inference.snapshot import EngineSnapshot

logger = logging.getLogger(__name__)
JOIN_SECONDS = 30.0


class EngineThread:
    """Runs the steps of an engine; all methods may be called from any thread. Events are emitted on this thread."""

    def __init__(self, engine: InferenceEngine, max_queue: int) -> None:
        """`max_queue` jobs may wait besides those that the engine computes at once, `max_sequences` of its options."""
        self._engine = engine
        self._room = max_queue + engine.options.max_sequences
        self._jobs: set[Job] = set()
        self._inbox: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def snapshot(self) -> EngineSnapshot:
        """Jobs, cache and drafts as they are now."""
        engine, running = self._engine, self._engine.running
        scheduler, stats = engine.core.scheduler, engine.stats
        pool, cache = scheduler.pool, engine.core.runner.cache
        offload = cache.offload_stats
        return EngineSnapshot(
            waiting=max(0, self._wanted - running),
            running=running,
            pages=pool.pages,
            pages_used=pool.used_pages,
            queried_tokens=pool.queried_tokens,
            hit_tokens=pool.hit_tokens,
            preemptions=scheduler.preemptions,
            drafted=tuple(stats.drafted),
            accepted=tuple(stats.accepted),
            resident_bytes=cache.resident_bytes,
            chosen_blocks=offload.chosen,
            missing_blocks=offload.missing,
            moved_bytes=offload.moved_bytes,
            recall_sum=offload.mass,
            recall_count=offload.measured,
        )

    @property
    def _wanted(self) -> int:
        """Number of jobs that are neither finished nor cancelled."""
        return sum(not job.cancelled.is_set() for job in list(self._jobs))

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def check_room(self) -> None:
        """Raise like `submit`, before work is spent on a request."""
        with self._changed:
            self._check_room()

    def _check_room(self) -> None:
        if self._closed or not self._thread.is_alive():
            raise ClosedError
        if self._wanted >= self._room:
            raise QueueFullError

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: too many jobs are unfinished.
            ClosedError: the thread was closed or is dead.
        """
        with self._changed:
            self._check_room()
            self._jobs.add(job)
            self._inbox.append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Cancel a job before the next step; no effect on a finished one."""
        job.cancelled.set()

    def retire(self) -> None:
        """Reject new jobs, finish the existing ones, and end the thread; waits for it."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def close(self) -> None:
        """Reject new jobs, cancel existing ones, and end the thread."""
        with self._changed:
            self._closed = True
            for job in self._jobs:
                job.cancelled.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(JOIN_SECONDS)

    def _work(self) -> None:
        try:
            while self._step():
                pass
        except Exception as error:
            logger.exception("the engine has failed")
            self._abandon(error)

    def _step(self) -> bool:
        """Take new jobs and run one step; False once the thread is closed and no job is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closed)
            if not self._jobs:
                return False
            arrived = list(self._inbox)
            self._inbox.clear()
        ended = {job for job in arrived if not self._submitted(job)}
        self._engine.step()
        with self._changed:
            waiting = set(self._inbox)
            self._jobs -= ended | {job for job in self._jobs - waiting if not self._engine.holds(job)}
        return True

    def _submitted(self, job: Job) -> bool:
        """Whether the engine took the job; otherwise its last event is emitted."""
        try:
            self._engine.submit(job)
        except InputError as error:
            job.emit(Finished(error))
            return False
        return True

    def _abandon(self, error: Exception) -> None:
        with self._changed:
            jobs, self._jobs, self._closed = self._jobs, set(), True
            self._inbox.clear()
        for job in jobs:
            job.emit(Finished(error))
