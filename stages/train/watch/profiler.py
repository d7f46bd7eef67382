"""torch.profiler over a window of steps; outside the window the cost per step is one comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ALLOCATIONS_KEPT = 1_000_000


class ProfileWindow:
    """Records steps `first` to `first + count - 1`, numbered as in metrics.jsonl.

    Writes `trace-FIRST-LAST.json` (Chrome's format, for Perfetto or TensorBoard) and, if a memory snapshot is requested
    and the device is CUDA, `memory-FIRST-LAST.pickle` for PyTorch's memory viewer. A window that started before the run
    was resumed is not recorded.
    """

    def __init__(
        self, folder: Path, window: tuple[int, int], *, snapshot: bool, cuda: bool, warn: Callable[[str], None]
    ) -> None:
        self.folder, self.warn = folder, warn
        self.first, self.last = window[0], window[0] + window[1] - 1
        self.cuda = cuda
        self.snapshot = snapshot and cuda
        self._profiler: Any = None
        if snapshot and not cuda:
            warn("watch.memory_snapshot needs an accelerator, this run is on the CPU: only the trace is written")

    def after(self, step: int) -> None:
        """Called after `step`, and with the step that a run resumes from."""
        if self._profiler is not None and step >= self.last:
            self._end()
        elif step + 1 == self.first:
            self._begin()

    def close(self) -> None:
        """Write the recording of an unfinished window."""
        if self._profiler is not None:
            self._end()

    def _begin(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.cuda else [])]
        if self.snapshot:
            torch.cuda.memory._record_memory_history(max_entries=ALLOCATIONS_KEPT)
        self._profiler = profile(activities=activities, profile_memory=True, record_shapes=True)
        self._profiler.start()

    def _end(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        window = f"{self.first}-{self.last}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            profiler.export_chrome_trace(str(self.folder / f"trace-{window}.json"))
            if self.snapshot:
                torch.cuda.memory._dump_snapshot(str(self.folder / f"memory-{window}.pickle"))
        except (OSError, RuntimeError) as error:  # the profiler raises RuntimeError for files it cannot write
            self.warn(f"the profile of steps {window} is lost: {error}")
        finally:
            if self.snapshot:
                torch.cuda.memory._record_memory_history(enabled=None)
