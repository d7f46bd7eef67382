"""The local engine: a pool of processes on this machine, sized by its cores and its memory."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from typing import Any

import psutil

from longcat.pipeline.engine.workers import MARK, WorkerContext, begin
from longcat.pipeline.errors import LongcatError
from longcat.pipeline.processes import descendants, keep_children_safe

WORKER_MEMORY_BYTES = 1 << 30
# More processes than this only compete for the cores.
MOST_WORKERS_A_CORE = 4
POLL_SECONDS = 0.2

logger = logging.getLogger("longcat")


def available_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One worker per core, fewer if memory is short (1 GiB per worker)."""
    return max(1, min(available_cores(), int(psutil.virtual_memory().available // WORKER_MEMORY_BYTES)))


class LocalEngine:
    """Process pool started anew for each run, so that no state is shared between stages."""

    def __init__(self, workers: int | None = None) -> None:
        """`workers`: by default one per core; at most four per core are started."""
        self._asked = workers or default_workers()
        self._workers = min(self._asked, MOST_WORKERS_A_CORE * available_cores())

    @property
    def workers(self) -> int:
        return self._workers

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `Engine.run`. One worker or one task runs in this process.

        Raises:
            LongcatError: workers died twice without an exception of their own (killed, or out of memory).
        """
        if self._asked > self._workers:
            logger.warning("%d workers are too many for %d cores: %d", self._asked, available_cores(), self._workers)
            self._asked = self._workers
        if min(self._workers, len(tasks)) <= 1:
            for index, task in enumerate(tasks):
                yield index, function(task)
            return
        left = dict(enumerate(tasks))
        for last in (False, True):
            try:
                for index, result in self._run_in_pool(function, list(left.items())):
                    del left[index]
                    yield index, result
                return
            except BrokenProcessPool:
                # A signal to the process group may have reached the worker first; wait for ours to be handled.
                time.sleep(POLL_SECONDS)
                if last:
                    raise LongcatError(
                        "a worker process died (killed, or out of memory)",
                        hint="run again to resume from the finished shards, with fewer --workers if memory is short",
                    ) from None
                logger.warning("a worker process died (killed, or out of memory); its shards are retried once")

    def _run_in_pool(
        self, function: Callable[[Any], Any], tasks: Sequence[tuple[int, Any]]
    ) -> Iterator[tuple[int, Any]]:
        keep_children_safe()
        pool = None
        try:
            pool = ProcessPoolExecutor(
                max_workers=min(self._workers, len(tasks)),
                mp_context=WorkerContext(),
                initializer=begin,
                initargs=(os.getpid(),),
            )
            pending: dict[Future[Any], int] = {}
            queue = iter(tasks)
            while True:
                # Few tasks are submitted ahead, so that memory does not grow with their number.
                for index, task in queue:
                    pending[pool.submit(function, task)] = index
                    if len(pending) >= 2 * self._workers:
                        break
                if not pending:
                    return
                done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        finally:
            _end(pool)


def _end(pool: ProcessPoolExecutor | None) -> None:
    """Stop the workers now; partial output stays in temporary files and is never published."""
    listed = list((pool._processes or {}).values()) if pool is not None else []
    if pool is not None:
        pool.shutdown(wait=False, cancel_futures=True)
    # From the kernel: a worker that was starting when the signal arrived is not in the pool's list.
    workers = [process for process in descendants(os.getpid(), MARK) if _is_ours(process)]
    for worker in workers:
        with suppress(psutil.Error):
            worker.kill()
    for process in listed:
        process.join(timeout=5)
    psutil.wait_procs(workers, timeout=5)


def _is_ours(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.ppid() == os.getpid()
    return False
