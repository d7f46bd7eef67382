"""Engine interface used by stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Engine(Protocol):
    """Runs a function over tasks, in any order, on as many workers as it has."""

    @property
    def workers(self) -> int:
        """Number of tasks that run concurrently."""

    def run(self, function: Callable[[Any], Any], tasks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Yield (index of the task, result) as tasks finish.

        `function` is a module-level function; tasks and results must survive pickling between processes. The first
        exception of a task is raised here and ends the run; running tasks are abandoned.
        """
