"""Tables of a page: which hold data, which to keep, and their Markdown.

A table is for layout, and its content is written as ordinary blocks, if

- it says so (`role="presentation"` or `none`), or a table with text is inside it;
- fewer than two rows, or two columns, have text;
- a page part such as `<nav>` or a code block of several lines is in one of its cells; in a table that nothing marks as
  data (a caption, header cells, `<thead>`) also a heading or a part of a form;
- a cell is long: over 600 characters, over 2,000 in a table that is marked as data;
- its spans blow it up to over ten times its cells.

All other tables hold data. A data table is kept or left out as a whole. Markdown has no spans: a cell over several
rows or columns is repeated in each, as its text belongs to all; one that is alone in its row is a title and written
once. Columns without text are left out, as they are for layout.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from longcat.stages.data.extract.content.block import Blocks
from longcat.stages.data.extract.content.hints import BIT
from longcat.stages.data.extract.content.inline import code_span
from longcat.stages.data.extract.content.tags import words

PRESENTATION = re.compile(r'\brole="(?:presentation|none)"', re.I)
SPAN = re.compile(r'\b(row|col)span="\s*(\d+)')
FORM_PARTS = words("form select button option fieldset h1 h2 h3 h4 h5 h6")
PAGE_PARTS = words("nav article section aside header footer main hr")
LONG_CELL, LONG_MARKED_CELL = 600, 2000
MAX_COLUMNS = 1000  # of a cell, by the HTML standard
MAX_GROWTH = 10
# Cells are short, and short texts score low even where they belong to the content; of 0.1 to 0.5, this limit gave the
# highest word F1 on 126 pages with data tables that the weights were not fitted on (0.867; 0.859 with 0.5). The tables
# of cookie banners would come with it (0.870 without them).
TABLE_LIMIT = 0.1
OVERLAY, SIDES = BIT["overlay"], BIT["aside"] | BIT["footer"]
FEW_REPEATED_CHARACTERS = 2000


@dataclass(slots=True)
class Cell:
    """A cell. `start` and `end` are its blocks; `rows` is 0 for all rows that follow in its part of the table."""

    element: int
    start: int
    end: int
    rows: int = 1
    columns: int = 1
    header: bool = False


@dataclass(slots=True)
class Table:
    """A table with its rows in order of display: header, body, footer."""

    element: int
    start: int
    end: int
    parts: list[list[list[Cell]]] = field(default_factory=lambda: [[], [], []])
    marked: bool = False  # as data: caption, header cells, <thead>
    layout: bool = False
    form: bool = False  # holds headings or parts of forms

    @property
    def rows(self) -> list[list[Cell]]:
        return [row for part in self.parts for row in part]


def data_tables(page: Blocks) -> list[Table]:
    """Data tables of a page in order, those with text."""
    if "table" not in page.tags:
        return []
    return [table for table in _tables(page) if not table.layout and not _is_layout(page, table)]


def keep_tables(page: Blocks, scores: Any, limit: float) -> list[bool]:
    """For each block whether it is kept: if its score is over `limit`, or if its data table is kept.

    A data table is kept if a block beside it, in the same element, is, or if the mean score of its cells, weighted by
    their length, is over `TABLE_LIMIT`; in asides and footers it must be over `limit`, and in boxes of cookie settings
    and the like blocks beside it do not count either.
    """
    keep = scores > limit
    for table in data_tables(page):
        inside = slice(table.start, table.end)
        sizes = [len(block.text) for block in page.blocks[inside]]
        mean = np.average(scores[inside], weights=sizes)
        above = page.blocks[table.start].above
        least = limit if above & (OVERLAY | SIDES) else TABLE_LIMIT
        keep[inside] = mean > least or (not above & OVERLAY and _is_beside(page, table, keep))
    kept: list[bool] = keep.tolist()
    return kept


def _is_beside(page: Blocks, table: Table, keep: Any) -> bool:
    """Whether the block before or after the table, in the element around it, is kept."""
    parent = page.parents[table.element]
    if parent < 0:
        return False
    before = table.start > page.starts[parent] and keep[table.start - 1]
    return bool(before or (table.end < page.ends[parent] and keep[table.end]))


def _tables(page: Blocks) -> list[Table]:
    """All tables with text and their cells, in one pass over the elements."""
    tables: dict[int, Table] = {}
    inside: list[Table | None] = []  # by element, the table around it
    rows: dict[int, tuple[Table, list[Cell]]] = {}
    for element, (tag, parent) in enumerate(zip(page.tags, page.parents, strict=True)):
        table = inside[parent] if parent >= 0 else None
        if tag == "table":
            if table and page.ends[element] > page.starts[element]:
                table.layout = True
            table = tables[element] = Table(element, page.starts[element], page.ends[element])
            table.layout = bool(PRESENTATION.search(page.attributes.get(element, "")))
        elif table is not None:
            _add(page, table, element, rows)
        inside.append(table)
    return [table for table in tables.values() if table.end > table.start]


def _add(page: Blocks, table: Table, element: int, rows: dict[int, tuple[Table, list[Cell]]]) -> None:
    """Enter one element inside a table."""
    tag, parent = page.tags[element], page.parents[element]
    if tag == "tr":
        row: list[Cell] = []
        rows[element] = table, row
        table.parts[{"thead": 0, "tfoot": 2}.get(page.tags[parent], 1)].append(row)
    elif tag in ("td", "th") and parent in rows:
        spans = dict.fromkeys(("row", "col"), 1)
        if attributes := page.attributes.get(element):
            spans.update((name, int(value)) for name, value in SPAN.findall(attributes))
        cell = Cell(element, page.starts[element], page.ends[element], spans["row"])
        cell.columns = min(max(spans["col"], 1), MAX_COLUMNS)
        cell.header = tag == "th"
        rows[parent][1].append(cell)
        table.marked |= cell.header
    elif tag in ("thead", "caption"):
        table.marked = True
    elif tag in PAGE_PARTS:
        table.layout |= page.ends[element] > page.starts[element]
    elif tag in FORM_PARTS:
        table.form |= page.ends[element] > page.starts[element]


def _is_layout(page: Blocks, table: Table) -> bool:
    if table.form and not table.marked:
        return True
    blocks = page.blocks
    cells = [cell for row in table.rows for cell in row]
    longest = LONG_MARKED_CELL if table.marked else LONG_CELL
    for cell in cells:
        inside = blocks[cell.start : cell.end]
        if sum(len(block.text) for block in inside) > longest:
            return True
        if any(block.tag == "pre" and "\n" in block.text for block in inside):
            return True
    if sum(any(cell.end > cell.start for cell in row) for row in table.rows) < 2:
        return True
    if sum(cell.columns for cell in cells) > MAX_GROWTH * (len(cells) + 10):
        return True
    grid = _grid(table)
    width = 1 + max((column for row in grid for column in row), default=0)
    if width * len(grid) > MAX_GROWTH * (len(cells) + 10):
        return True
    return len(_columns(grid)) < 2


def _grid(table: Table) -> list[dict[int, Cell]]:
    """For each row its cells by column, those that span several in each (HTML standard, 4.9.12)."""
    grid: list[dict[int, Cell]] = []
    for part in table.parts:
        hanging: dict[int, tuple[int, Cell]] = {}  # by column: rows left, cell
        for number, row in enumerate(part):
            placed = {column: cell for column, (_, cell) in hanging.items()}
            column = 0
            for cell in row:
                while column in placed:
                    column += 1
                rows = min(cell.rows or len(part), len(part) - number)
                for place in range(column, column + cell.columns):
                    placed[place] = cell
                    if rows > 1:
                        hanging[place] = rows, cell
                column += cell.columns
            hanging = {column: (rows - 1, cell) for column, (rows, cell) in hanging.items() if rows > 1}
            grid.append(placed)
    return grid


def _columns(grid: list[dict[int, Cell]]) -> list[int]:
    """Columns in which a cell with text starts."""
    found: set[int] = set()
    for row in grid:
        before: Cell | None = None
        for column in sorted(row):
            if row[column] is not before and row[column].end > row[column].start:
                found.add(column)
            before = row[column]
    return sorted(found)


def table_markdown(page: Blocks, table: Table) -> str:
    """A data table as a caption, if any, and a pipe table; its first row is the header."""
    grid = _grid(table)
    columns = _columns(grid)
    texts = {cell.element: _cell_text(page, cell) for row in table.rows for cell in row}
    own = sum(map(len, texts.values()))
    repeated = sum(len(texts[row[column].element]) for row in grid for column in columns if column in row)
    repeat = repeated - own <= max(own, FEW_REPEATED_CHARACTERS)
    lines = []
    written: set[int] = set()
    for row in grid:
        alone = len({id(cell) for cell in row.values()}) == 1
        line = []
        for column in columns:
            cell = row.get(column)
            if cell is None or ((alone or not repeat) and cell.element in written):
                line.append("")
                continue
            written.add(cell.element)
            line.append(texts[cell.element])
        if any(line):
            lines.append("| " + " | ".join(line) + " |")
    lines.insert(1, "|" + " --- |" * len(columns))
    caption = " ".join(
        " ".join(block.text.split()) for block in page.blocks[table.start : table.end] if block.tag == "caption"
    )
    return "\n".join([caption, "", *lines] if caption else lines)


def _cell_text(page: Blocks, cell: Cell) -> str:
    """All blocks of a cell in one line."""
    texts = []
    for block in page.blocks[cell.start : cell.end]:
        text = code_span(block.text) if block.tag == "pre" else block.text
        texts.append(" ".join(text.split()))
    return " ".join(texts).replace("|", "\\|")
