"""W&B and trackio: optional logging of every step, which never stops a run.

Each is an extra of the same name. A service that cannot be reached, or fails later, gives one warning and is skipped
from then on; W&B's own offline mode (WANDB_MODE=offline) writes to the folder of the run.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from longcat.pipeline.errors import ConfigError

INIT_SECONDS = 60
FINISH_SECONDS = 60


class Tracker:
    """One service. `told` is the last step logged before; its run keeps earlier data."""

    def __init__(self, name: str, told: int, logger: logging.Logger) -> None:
        self.name, self.told, self.logger = name, told, logger
        self._run: Any = None

    def open(self, start: Callable[[], Any]) -> None:
        """Start or resume the run with `start`, which returns an object with `log` and `finish`."""
        self._run = self._guarded(start, aside=True)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Log a step. Steps logged before a resume have the same values and are skipped."""
        if self._run is not None and step > self.told:
            self._guarded(lambda: self._run.log(dict(values), step=step))

    def close(self) -> None:
        if self._run is not None:
            self._guarded(self._run.finish, aside=True)
            self._run = None

    def _guarded(self, act: Callable[[], Any], *, aside: bool = False) -> Any:
        try:
            # Output of services must not go to our standard output, which is for data.
            with redirect_stdout(sys.stderr) if aside else nullcontext():
                return act()
        except Exception as error:  # training continues on any exception of a service
            self._run = None
            reason = " ".join(str(error).split()) or type(error).__name__
            self.logger.warning("%s no longer receives this run: %s", self.name, reason)
            return None


def load_tracker(name: str) -> Any:
    """Import the module of a tracker.

    Raises:
        ConfigError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"watch.trackers has {name}, which cannot be imported ({error})",
            hint=f"pip install 'longcat-cli[{name}]', or remove it",
        ) from None


def start_wandb(module: Any, *, project: str, name: str, identifier: str, config: Any, folder: Path) -> Any:
    """W&B run with the artifact's id, so that a resumed run continues there too."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = module.Settings(
        console="off", silent=True, init_timeout=INIT_SECONDS, finish_timeout=FINISH_SECONDS, finish_timeout_raises=True
    )
    return module.init(
        project=project,
        name=name,
        id=identifier,
        resume="allow",
        config=config,
        dir=str(folder),
        settings=settings,
    )


def start_trackio(module: Any, *, project: str, name: str, config: Any) -> Any:
    """trackio run of that name; its data is stored where `trackio show` finds it."""
    return module.init(project=project, name=name, resume="allow", config=dict(config), embed=False)
