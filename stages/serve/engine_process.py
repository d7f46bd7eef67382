"""Another engine as a child process: found on PATH, started, and ended by the signals that this process gets."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from longcat.pipeline.errors import UsageError
from longcat.stages.serve.hand_over import NAMES, Engine, Launch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit codes of a command that a signal ended, in shells.
KILLED = 128


def find_engine(engine: Engine, path: str | None = None) -> list[str]:
    """First words of the command that starts an engine, from `path` (default: PATH).

    Raises:
        UsageError: it is not installed.
    """
    found = shutil.which(engine, path=path)
    if found is None:
        hint = f"install {NAMES[engine]} in an environment of its own, and put its bin folder on PATH"
        raise UsageError(f"{NAMES[engine]} is not installed: there is no `{engine}` on PATH", hint=hint)
    return [found, "serve"]


def shown(launch: Launch) -> str:
    """The command as text for a shell, with the keys left out."""
    secrets = [f"{name}=..." for name in launch.environment if "KEY" in name]
    plain = [f"{name}={shlex.quote(value)}" for name, value in launch.environment.items() if "KEY" not in name]
    config = ["--config", "FILE-WITH-" + "-".join(launch.private).upper()] if launch.private else []
    return " ".join([*secrets, *plain, shlex.join([*launch.words, *config])])


def run_engine(launch: Launch) -> int:
    """Run an engine until it ends; returns its exit code, 0 if it ended by a signal that was passed on.

    Raises:
        UsageError: it cannot be started.
    """
    with _private_file(launch) as words, _Passing() as passing:
        try:
            # In a group of its own: a terminal would send Ctrl-C to it, and so would `_Passing`.
            child = subprocess.Popen(words, env={**os.environ, **launch.environment}, process_group=0)
        except OSError as error:
            raise UsageError(f"{words[0]} cannot be started: {error.strerror}") from None
        passing.to(child)
        code = child.wait()
    if code < 0:
        return 0 if -code in passing.passed else KILLED - code
    return code


@contextmanager
def _private_file(launch: Launch) -> Iterator[Sequence[str]]:
    if not launch.private:
        yield launch.words
        return
    with tempfile.TemporaryDirectory(prefix="longcat-serve-") as folder:  # readable by its owner only
        file = Path(folder) / "private.yaml"
        # JSON strings are YAML.
        file.write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in launch.private.items()))
        yield [*launch.words, "--config", str(file)]


class _Passing:
    """Context in which signals go to a child; those that arrive before it has started are sent then."""

    def __init__(self) -> None:
        self.passed: set[int] = set()
        self._child: subprocess.Popen[bytes] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def to(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child
        for number in tuple(self.passed):
            child.send_signal(number)

    def __enter__(self) -> _Passing:
        self._before = {number: signal.signal(number, self._take) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.passed.add(number)
        if self._child is not None:
            self._child.send_signal(number)
