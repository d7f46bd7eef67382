"""The console that results are printed on: a string is data and is shown as it is, styles are given apart from it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from longcat.pipeline.printable import STEERING, one_line, printable

# Without a terminal nothing is wrapped, so that lines can be parsed.
UNBOUNDED = 100_000


class PlainConsole(Console):
    """A console that reads no markup and lets no control character out of what it prints.

    Whatever is handed to it as a string, in a table's cell too, is text. Styled text is made with `styled` and
    `line`. Lines longer than the terminal are left to the terminal, which breaks them without a newline.
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
        # Rich joins texts into a new one, which does not know any more that it is not to be wrapped.
        if any(isinstance(thing, Text) and thing.no_wrap for thing in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, crop=crop, **options)


def styled(text: object, style: str = "") -> Text:
    """One line of text in a style of rich, as a cell of a table or a part of `line`."""
    return Text(one_line(str(text)), style=style)


def line(*parts: object) -> Text:
    """Strings and styled texts, one after the other; broken by the terminal only."""
    made = Text(no_wrap=True, overflow="ignore", end="\n")
    for part in parts:
        made.append(part if isinstance(part, Text) else one_line(str(part)))
    return made


def write_text(text: str) -> None:
    """Write text that somebody may want to pipe on: as it is into a pipe or a file, printable on a terminal."""
    if sys.stdout.isatty():
        sys.stdout.write(printable(text))
        return
    # Bytes of the command line that are no UTF-8 come out as they came in.
    sys.stdout.flush()
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
