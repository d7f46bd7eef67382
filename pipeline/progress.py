"""How a stage tells how far it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """One running count."""

    def advance(self, amount: float = 1) -> None:
        """Add to what is done, in the task's unit."""

    def set(self, **fields: float | str) -> None:
        """Show figures beside the count, e.g. `loss=3.21`."""


class Progress(Protocol):
    """What a stage reports to: `with progress.task("packing", total=8, unit="shards") as bar: ...`."""

    def task(self, description: str, *, total: float | None = None, unit: str = "") -> AbstractContextManager[Bar]:
        """Open a bar; `total` None means that the end is not known."""


class SilentBar:
    """A bar that nobody sees."""

    def advance(self, amount: float = 1) -> None:
        pass

    def set(self, **fields: float | str) -> None:
        pass


class SilentProgress:
    """Progress that nobody sees: for tests and library use."""

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        yield SilentBar()
