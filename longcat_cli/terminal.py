"""Console for results: strings are data and printed verbatim, styles are given separately."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from longcat.pipeline.printable import STEERING, one_line, printable

# Without a terminal lines are not wrapped, so that they can be parsed.
UNBOUNDED = 100_000


class PlainConsole(Console):
    """Console without markup that escapes control characters.

    Every string, also in a table cell, is text. Styled text is made with `styled` and `line`. Lines longer than the
    terminal are wrapped by the terminal, without a newline.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **{**options, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if not segment.control and STEERING.search(segment.text):
                yield Segment(printable(segment.text), segment.style)
            else:
                yield segment

    def print(self, *objects: Any, crop: bool = False, **options: Any) -> None:
        # Rich joins texts into a new one, which loses the no-wrap setting.
        if any(isinstance(thing, Text) and thing.no_wrap for thing in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, crop=crop, **options)


def styled(text: object, style: str = "") -> Text:
    """One line of text in a rich style, as a table cell or a part of `line`."""
    return Text(one_line(str(text)), style=style)


def line(*parts: object) -> Text:
    """Print strings and styled texts on one line; only the terminal wraps it."""
    made = Text(no_wrap=True, overflow="ignore", end="\n")
    for part in parts:
        made.append(part if isinstance(part, Text) else one_line(str(part)))
    return made


def write_text(text: str) -> None:
    """Write text: unchanged into a pipe or a file, escaped on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(printable(text))
        return
    # Bytes of the command line that are not UTF-8 are written unchanged.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


def write_stream(pieces: Iterator[str]) -> None:
    """Write text as it arrives, then a newline, which a terminal needs after a partial answer too."""
    ended = False
    try:
        for piece in pieces:
            write_text(piece)
            sys.stdout.flush()
        ended = True
    finally:
        if ended or sys.stdout.isatty():
            write_text("\n")
            sys.stdout.flush()


def wait_for_input(descriptor: int) -> None:
    """Wait until input is available; a signal handler may raise at any moment.

    A read that starts just after the signal would not notice it and would wait for a line.
    """
    woken = signal_descriptor()
    while descriptor not in select.select([descriptor, woken], [], [])[0]:
        os.read(woken, 1 << 10)


@lru_cache(maxsize=1)
def signal_descriptor() -> int:
    """Descriptor that becomes readable with every signal.

    It stays open: a handler that raises while it is closed would leave signals a descriptor that is gone.
    """
    woken, wake = os.pipe()
    for end in (woken, wake):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    return woken
