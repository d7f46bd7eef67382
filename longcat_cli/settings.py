"""The global options, and the session they make."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pipeline.interrupt import StopSignal
    from pipeline.runner import Session
    from pipeline.store import Store

DEFAULT_STORE = Path("longcat-store")


@dataclass
class Settings:
    """What stands before the command: `longcat --store DIR --workers 4 --debug ...`."""

    store: Path = DEFAULT_STORE
    workers: int | None = None
    debug: bool = False
    quiet: bool = False
    stop: StopSignal | None = None

    def open_store(self) -> Store:
        from pipeline.store import Store

        return Store(self.store)

    def open_session(self) -> Session:
        """A session with progress on stderr and signals handled."""
        import stages  # noqa: F401  declares the stages
        from longcat_cli.console import make_logger, make_progress
        from pipeline.engine import LocalEngine
        from pipeline.interrupt import StopSignal
        from pipeline.runner import Session

        return Session(
            store=self.open_store(),
            engine=LocalEngine(self.workers),
            progress=make_progress(quiet=self.quiet),
            logger=make_logger(quiet=self.quiet, debug=self.debug),
            stop=self.stop or StopSignal(),
        )


def settings_of(ctx: typer.Context) -> Settings:
    """The global options of this call."""
    found = ctx.find_object(Settings)
    return found if found is not None else Settings()
