"""Progress interface for stages, independent of how progress is displayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One running count."""

    def advance(self, amount: float = 1) -> None:
        """Advance the count, in the task's unit."""

    def set(self, **fields: float | str) -> None:
        """Show figures next to the count, e.g. `loss=3.21`."""


class Progress(Protocol):
    """Progress reporter of a stage: `with progress.task("packing", total=8, unit="shards") as bar: ...`."""

    def task(self, description: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Bar]:
        """Start a task; `total` None means that the total is unknown."""


class SilentBar:
    """Silent task."""

    def advance(self, amount: float = 1) -> None:
        pass

    def set(self, **fields: float | str) -> None:
        pass


class SilentProgress:
    """Silent progress, for tests and library use."""

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        yield SilentBar()
