"""Output: data on stdout, everything else on stderr; progress bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longcat.cli.terminal import PlainConsole
    from longcat.pipeline.progress import Bar, Progress

PLAIN_INTERVAL_SECONDS = 10.0
# Window in seconds for estimating the remaining time: long enough for steps that take minutes.
RATE_SECONDS = 600.0
GIGA = 1024**3
SPACE = "  "  # before and between figures


@lru_cache(maxsize=1)
def out() -> PlainConsole:
    """The console on stdout. Without a terminal lines are not wrapped, so that output can be parsed."""
    from longcat.cli.terminal import UNBOUNDED, PlainConsole

    return PlainConsole(width=None if sys.stdout.isatty() else UNBOUNDED)


@lru_cache(maxsize=1)
def err() -> PlainConsole:
    """The console on stderr."""
    from longcat.cli.terminal import PlainConsole

    return PlainConsole(stderr=True, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; characters that control a terminal are JSON-escaped."""
    from longcat.pipeline.printable import STEERING

    # Another encoding would lose characters, or produce invalid JSON.
    text = json.dumps(value, indent=2, ensure_ascii=sys.stdout.encoding.lower() not in ("utf-8", "utf8"))
    # The document's own line breaks do not match; every other match is inside a string.
    sys.stdout.write(STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def say(text: str) -> None:
    """Print one line on stderr."""
    from longcat.pipeline.printable import one_line

    sys.stderr.write(one_line(text) + "\n")


class StderrHandler(logging.Handler):
    """Log handler that writes printable lines to the current stderr, above a live progress bar.

    Messages may contain untrusted text: names, addresses and parts of documents.
    """

    def emit(self, record: logging.LogRecord) -> None:
        from longcat.pipeline.printable import printable

        try:
            sys.stderr.write(printable(self.format(record)) + "\n")
        except Exception:  # as the standard library's handlers do
            self.handleError(record)


def make_logger(*, quiet: bool, debug: bool) -> logging.Logger:
    """The logger that stages write to: plain lines on stderr."""
    logger = logging.getLogger("longcat")
    level = logging.WARNING if quiet else logging.INFO
    logger.setLevel(logging.DEBUG if debug else level)
    if not logger.handlers:
        handler = StderrHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    return logger


def make_progress(*, quiet: bool) -> Progress:
    """Progress bars on a terminal, a line every ten seconds elsewhere, nothing with `--quiet`."""
    from longcat.pipeline.progress import SilentProgress

    if quiet:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else PlainProgress()


class RichProgress:
    """Live bar with count and remaining time; figures go on lines of their own, to fit narrow terminals."""

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        from rich.console import RenderableType
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Remaining

        from longcat.cli.terminal import styled
        from longcat.pipeline.printable import one_line

        class WithFigures(Progress):
            def get_renderables(self) -> Iterator[RenderableType]:
                yield self.make_tasks_table(self.tasks)
                for figures in (task.fields["figures"] for task in self.tasks):
                    for line in _lines(figures, self.console.width):
                        shown = styled(line, "cyan")
                        shown.no_wrap, shown.overflow = True, "ellipsis"
                        yield shown

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}", markup=False),
            TimeElapsedColumn(),
            Remaining(),
            TextColumn("left", style="dim"),
        )
        with WithFigures(*columns, console=err(), transient=True, speed_estimate_period=RATE_SECONDS) as progress:
            identifier = progress.add_task(one_line(description), total=total, unit=one_line(unit), figures=())

            class Live:
                def advance(self, amount: float = 1) -> None:
                    progress.advance(identifier, amount)

                def set(self, **fields: float | str) -> None:
                    progress.update(identifier, figures=_figures(fields))

            yield Live()


class PlainProgress:
    """Progress as log lines: at most one every ten seconds, and one at the end."""

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Bar]:
        bar = _PlainBar(description, total, unit)
        yield bar
        bar.say()


class _PlainBar:
    def __init__(self, description: str, total: float | None, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0.0
        self.fields: dict[str, float | str] = {}
        self.started = self.said = time.monotonic()
        self.first: tuple[float, float] | None = None  # time and size of the first increment

    def advance(self, amount: float = 1) -> None:
        self.done += amount
        if self.first is None:  # a resumed run starts with everything done before
            self.first = time.monotonic(), amount
        if time.monotonic() - self.said > PLAIN_INTERVAL_SECONDS:
            self.say()

    def set(self, **fields: float | str) -> None:
        self.fields = fields

    def say(self) -> None:
        self.said = time.monotonic()
        elapsed = self.said - self.started
        of = f" of {self.total:g}" if self.total is not None else ""
        left = ""
        if self.total and self.done < self.total and self.first and self.done > self.first[1]:
            began, before = self.first
            left = f", {duration((self.said - began) * (self.total - self.done) / (self.done - before))} left"
        figures = f", {SPACE.join(_figures(self.fields))}" if self.fields else ""
        say(f"  {self.description}: {self.done:g}{of} {self.unit}{figures}, {duration(elapsed)}{left}")


def _figures(fields: Mapping[str, float | str]) -> tuple[str, ...]:
    return tuple(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()
    )


def _lines(figures: Iterable[str], width: int) -> list[str]:
    """Indented lines of at most `width` characters, unless a figure alone is longer."""
    lines: list[str] = []
    for figure in figures:
        if lines and len(lines[-1]) + len(SPACE) + len(figure) <= width:
            lines[-1] += SPACE + figure
        else:
            lines.append(SPACE + figure)
    return lines


def duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def size(count: float) -> str:
    """Format a number of bytes: `1.3 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
