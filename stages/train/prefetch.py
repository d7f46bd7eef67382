"""Prefetching of batches during the previous step."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from longcat.stages.formats.windows import Batch

AHEAD = 2


class Prefetcher:
    """Calls `make(first_sample)` in `workers` threads for the next batches; with 0 workers on demand.

    A batch is a function of its first sample, so results do not depend on the number or order of threads.
    """

    def __init__(self, make: Callable[[int], Batch], batch_size: int, workers: int) -> None:
        self._make, self._batch_size = make, batch_size
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loader") if workers else None
        self._ready: dict[int, Future[Batch]] = {}

    def get(self, first_sample: int) -> Batch:
        """The batch that starts at a sample; re-raises exceptions of `make`."""
        if self._pool is None:
            return self._make(first_sample)
        wanted = [first_sample + number * self._batch_size for number in range(AHEAD + 1)]
        kept = {sample: self._ready.pop(sample) for sample in wanted if sample in self._ready}
        for future in self._ready.values():
            future.cancel()
        self._ready = {sample: kept.get(sample) or self._pool.submit(self._make, sample) for sample in wanted}
        return self._ready.pop(first_sample).result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
