"""Progress and log lines of rank 0, shown by the command that started it, through a file of JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from longcat.pipeline.files import append_jsonl
from longcat.pipeline.progress import Bar, Progress


class RelayedProgress:
    """Progress that writes its events to a file; one task at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, event: str, **fields: Any) -> None:
        append_jsonl(self._path, {"event": event, **fields})

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        self.send("open", description=description, total=total, unit=unit)
        try:
            yield _RelayedBar(self)
        finally:
            self.send("close")


class _RelayedBar:
    def __init__(self, relay: RelayedProgress) -> None:
        self._relay = relay

    def advance(self, amount: float = 1) -> None:
        self._relay.send("advance", amount=amount)

    def set(self, **fields: float | str) -> None:
        self._relay.send("set", fields=fields)


class RelayHandler(logging.Handler):
    """Log handler that writes to the same file."""

    def __init__(self, relay: RelayedProgress) -> None:
        super().__init__()
        self._relay = relay

    def emit(self, record: logging.LogRecord) -> None:
        self._relay.send("log", level=record.levelno, text=record.getMessage())


class Listener:
    """Reads the file as it grows and replays it on the progress and log of this process."""

    def __init__(self, path: Path, progress: Progress, logger: logging.Logger) -> None:
        self._stream: BinaryIO = path.open("rb")
        self._progress, self._logger = progress, logger
        self._task: AbstractContextManager[Bar] | None = None
        self._bar: Bar | None = None
        self._rest = b""

    def listen(self) -> None:
        """Show events since the last call."""
        lines = (self._rest + self._stream.read()).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._show(json.loads(line))

    def close(self) -> None:
        """Show the remaining events and close an open bar."""
        self.listen()
        self._end_task()
        self._stream.close()

    def _show(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "open":
            self._end_task()
            self._task = self._progress.task(event["description"], total=event["total"], unit=event["unit"])
            self._bar = self._task.__enter__()
        elif kind == "close":
            self._end_task()
        elif kind == "log":
            self._logger.log(event["level"], "%s", event["text"])
        elif self._bar is not None and kind == "advance":
            self._bar.advance(event["amount"])
        elif self._bar is not None and kind == "set":
            self._bar.set(**event["fields"])

    def _end_task(self) -> None:
        task, self._task, self._bar = self._task, None, None
        if task is not None:
            task.__exit__(None, None, None)
