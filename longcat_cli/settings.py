"""Common options of a call, and the session built from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from longcat.pipeline.engine import Engine
    from longcat.pipeline.interrupt import StopSignal
    from longcat.pipeline.runner import Session
    from longcat.pipeline.store import Store

DEFAULT_STORE = Path("longcat-store")


class EngineName(StrEnum):
    """Engine of the data stages."""

    LOCAL = "local"
    RAY = "ray"


@dataclass
class Settings:
    """The common options of one call, `--store DIR --workers 4 --json ...`, wherever they were given."""

    store: Path = DEFAULT_STORE
    workers: int | None = None
    engine: EngineName = EngineName.LOCAL
    ray_address: str | None = None
    json: bool = False
    debug: bool = False
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False
    stop: StopSignal | None = None
    opened: Store | None = None

    def open_store(self) -> Store:
        """Store of this call; a single object, since its announcements to `gc` end with it."""
        from longcat.pipeline.store import Store

        if self.opened is None:
            self.opened = Store(self.store)
        return self.opened

    def open_engine(self) -> Engine:
        """Engine selected by the options.

        Raises:
            UsageError: Ray was requested but is not installed, or its address is given for another engine.
        """
        from longcat.pipeline.engine import LocalEngine
        from longcat.pipeline.errors import UsageError

        if self.engine is EngineName.RAY:
            from longcat.pipeline.engine.ray import RayEngine

            return RayEngine(self.workers, self.ray_address)
        if self.ray_address is not None:
            raise UsageError("--ray-address needs --engine ray", hint="add --engine ray")
        return LocalEngine(self.workers)

    def open_session(self) -> Session:
        """Session with progress on stderr and signal handling."""
        import longcat.stages  # noqa: F401  declares the stages
        from longcat.cli.console import make_logger, make_progress
        from longcat.pipeline.interrupt import StopSignal
        from longcat.pipeline.runner import Session

        return Session(
            store=self.open_store(),
            engine=self.open_engine(),
            progress=make_progress(quiet=self.quiet),
            logger=make_logger(quiet=self.quiet, debug=self.debug or self.verbose),
            stop=self.stop or StopSignal(),
        )


def settings_of(ctx: typer.Context) -> Settings:
    """Common options of this call."""
    found = ctx.find_object(Settings)
    return found if found is not None else Settings()
