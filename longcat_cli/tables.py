"""Tables that fit the terminal: copyable words are never broken, the least important columns are dropped first."""

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
    """Table without rules; string cells are shown verbatim, styled text is given as `styled` cells.

    Every row is one line, except that prose is wrapped between words. On a narrow terminal the columns in `leaves` are
    dropped in order; the terminal wraps what is still too long.
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
        """Add a row; missing cells are empty."""
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
        """Columns to show in a given width, and the widths of the truncated ones."""
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
        """Minimum width of a row in characters."""
        widths = [cut.get(place, self._natural(place)) for place in shown]
        least = [min(w, MIN_PROSE) if self.prose[place] else w for place, w in zip(shown, widths, strict=True)]
        return sum(least) + GAP * (len(least) - 1)

    def _natural(self, place: int) -> int:
        return max(cell_len(self.names[place]), *(row[place].cell_len for row in self.rows), 0)


class Unbroken:
    """Renderable whose lines may be longer than the terminal, which then wraps them itself."""

    def __init__(self, inner: RenderableType) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _stripped(console.render(self.inner, options.update(width=UNBOUNDED)))


def _stripped(segments: Iterable[Segment]) -> Iterable[Segment]:
    """Strip trailing blanks from lines, which a terminal would wrap too."""
    for line in Segment.split_lines(segments):
        while line and not line[-1].text.rstrip():
            line.pop()
        if line:
            last = line.pop()
            line.append(Segment(last.text.rstrip(), last.style))
        yield from line
        yield Segment.line()


def table(*columns: str, leaves: Sequence[str] = ()) -> PlainTable:
    """Make a table: a prefix `>` marks a column of numbers, `~` a column of prose.

    `leaves` names the columns to drop on a narrow terminal, in order; one that ends in `…` is truncated before it is
    dropped.
    """
    return PlainTable(columns, leaves)
