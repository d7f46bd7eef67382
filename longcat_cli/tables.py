"""Tables that fit the terminal: a word that somebody may want to copy is never broken, the least needed gives way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from longcat.cli.terminal import UNBOUNDED, styled

GAP = 2
MIN_PROSE = 20
MIN_CUT = 10
CUT = "…"


class PlainTable:
    """Rows of cells without rules; a cell given as a string is shown as it is, styles come as `styled` cells.

    Every row is one line, except that prose is broken between words. On a terminal that is too narrow the columns of
    `leaves` are left out, in that order; what is still too long the terminal breaks itself.
    """

    def __init__(self, columns: Sequence[str], leaves: Sequence[str] = ()) -> None:
        self.names = [column.lstrip(">~") for column in columns]
        self.right = [column.startswith(">") for column in columns]
        self.prose = [column.startswith("~") for column in columns]
        self.leaves = [self.names.index(name.rstrip(CUT)) for name in leaves]
        self.cut = {self.names.index(name.rstrip(CUT)) for name in leaves if name.endswith(CUT)}
        self.rows: list[list[Text]] = []
        self.title = ""
        self.note = ""

    @property
    def row_count(self) -> int:
        return len(self.rows)

    def add_row(self, *cells: str | Text) -> None:
        """A row; cells that are not given are empty."""
        made = [cell.copy() if isinstance(cell, Text) else styled(cell) for cell in cells]
        for cell in made:  # the column decides
            cell.no_wrap = cell.overflow = None
        self.rows.append([*made, *(Text() for _ in range(len(self.names) - len(made)))])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown, cut = self._fitting(options.max_width)
        made = Table(box=None, pad_edge=False, header_style="bold")
        for place in shown:
            made.add_column(
                styled(self.names[place]),
                justify="right" if self.right[place] else "left",
                no_wrap=not self.prose[place],
                overflow="fold" if self.prose[place] else "ellipsis",
                max_width=cut.get(place),
            )
        for row in self.rows:
            made.add_row(*(row[place] for place in shown))
        width = max(options.max_width, self._width(shown, cut))
        if self.title:
            yield styled(self.title, "italic")
        yield from _stripped(console.render(made, options.update(width=width)))
        if self.note:
            yield styled(self.note, "dim")

    def _fitting(self, room: int) -> tuple[list[int], dict[int, int]]:
        """The columns to show in so many characters, and the widths of those that are cut."""
        shown = list(range(len(self.names)))
        for place in self.leaves:
            if self._width(shown, {}) <= room:
                break
            others = [other for other in shown if other != place]
            left = room - self._width(others, {}) - GAP
            if place in self.cut and left >= max(MIN_CUT, cell_len(self.names[place])):
                return shown, {place: left}
            shown = others
        return shown, {}

    def _width(self, shown: Sequence[int], cut: dict[int, int]) -> int:
        """Characters that a row takes at least."""
        widths = [cut.get(place, self._natural(place)) for place in shown]
        least = [min(w, MIN_PROSE) if self.prose[place] else w for place, w in zip(shown, widths, strict=True)]
        return sum(least) + GAP * (len(least) - 1)

    def _natural(self, place: int) -> int:
        return max(cell_len(self.names[place]), *(row[place].cell_len for row in self.rows), 0)


class Unbroken:
    """Something whose lines may be longer than the terminal, which then breaks them itself."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _stripped(console.render(self.inner, options.update(width=UNBOUNDED)))


def _stripped(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Lines without the blanks at their ends, which a terminal would break as well."""
    for line in Segment.split_lines(segments):
        while line and not line[-1].text.rstrip():
            line.pop()
        if line:
            last = line.pop()
            line.append(Segment(last.text.rstrip(), last.style))
        yield from line
        yield Segment.line()


def table(*columns: str, leaves: Sequence[str] = ()) -> PlainTable:
    """A table of these columns: `>` in front of a name makes it one of numbers, `~` one of prose.

    `leaves` names the columns that a narrow terminal can do without, the first to go first; one that ends in `…` is cut
    before it goes.
    """
    return PlainTable(columns, leaves)
