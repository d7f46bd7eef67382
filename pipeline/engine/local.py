"""The local engine: a pool of processes on this machine, sized by its cores and its memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from longcat.pipeline.errors import LongcatError
from longcat.pipeline.processes import end_with_parent, keep_children_safe

WORKER_MEMORY_BYTES = 1 << 30
POLL_SECONDS = 0.2


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One worker a core, fewer where memory is short (1 GiB a worker)."""
    import psutil

    return max(1, min(available_cores(), int(psutil.virtual_memory().available // WORKER_MEMORY_BYTES)))


class LocalEngine:
    """A pool of processes started anew for each run, so that no state passes from one stage to the next."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or default_workers()

    @property
    def workers(self) -> int:
        return self._workers

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """See `Engine.run`. One worker or one task runs in this process.

        Raises:
            LongcatError: a worker died without an exception of its own (killed, or out of memory).
        """
        if min(self._workers, len(tasks)) <= 1:
            for index, task in enumerate(tasks):
                yield index, function(task)
            return
        yield from self._run_in_pool(function, tasks)

    def _run_in_pool(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        # Spawned, not forked: a forked child of a process that has run torch or Arrow threads can deadlock.
        keep_children_safe()
        pool = ProcessPoolExecutor(
            max_workers=min(self._workers, len(tasks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(os.getpid(),),
        )
        try:
            pending: dict[Future[Any], int] = {}
            queue = iter(enumerate(tasks))
            while True:
                # Few tasks are handed out ahead, so that a million of them need no memory.
                for index, task in queue:
                    pending[pool.submit(function, task)] = index
                    if len(pending) >= 2 * self._workers:
                        break
                if not pending:
                    return
                done, _ = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    yield pending.pop(future), future.result()
        except BrokenProcessPool:
            raise LongcatError(
                "a worker process died (killed, or out of memory)",
                hint="run again to go on from the finished shards, with fewer --workers if memory is short",
            ) from None
        finally:
            _end(pool)


def _end(pool: ProcessPoolExecutor) -> None:
    """Stop the workers now; what they were writing stays aside and is never published."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=5)


def _start_worker(parent: int) -> None:
    # Ctrl-C reaches the whole terminal group; only the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    end_with_parent()
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    """Where the kernel has no such promise, notice within a second that the parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
