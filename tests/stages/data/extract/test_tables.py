"""Tables of pages: cells by column, spans, layout tables, and that a table is kept or left out as a whole."""

from __future__ import annotations

import numpy as np
import pytest
from resiliparse.parse.html import HTMLTree

from longcat.stages.data.extract.content.blocks import read_blocks
from longcat.stages.data.extract.content.tables import data_tables, keep_tables
from longcat.stages.data.extract.html import extract_page
from tests.stages.data.extract.markup import PROSE, markdown


def table(*rows: str) -> str:
    """A pipe table of rows with cells separated by blanks; `-` is an empty cell."""
    cells = [["" if cell == "-" else cell for cell in row.split()] for row in rows]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + " --- |" * len(cells[0]), *lines[1:]])


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        (
            "<tr><th>Boat<th>Berth<th>Port<tr><td>Ada<td><td>Bergen<tr><td><td>7<td>Cork",
            ("Boat Berth Port", "Ada - Bergen", "- 7 Cork"),
        ),
        ("<tr><th>A<th>B<th>C<tr><td>1<tr><td>2<td>3", ("A B C", "1 - -", "2 3 -")),
        ("<tr><th>A<th>B<tr><td rowspan=2>x<td>1<tr><td>2<tr><td>y<td>3", ("A B", "x 1", "x 2", "y 3")),
        ("<tr><th>A<th>B<tr><td rowspan=0>x<td>1<tr><td>2<tr><td>3", ("A B", "x 1", "x 2", "x 3")),
        ("<tr><th>A<th>B<tr><td rowspan=9>x<td>1<tr><td>2", ("A B", "x 1", "x 2")),
        (
            "<tr><th rowspan=2>A<th colspan=2>B<tr><th>C<th>D<tr><td>1<td>2<td>3",
            ("A B B", "A C D", "1 2 3"),
        ),
        ("<tr><td rowspan=2 colspan=2>x<td>1<tr><td>2<tr><td>3<td>4<td>5", ("x x 1", "x x 2", "3 4 5")),
        ("<tr><th>A<th>B<tr><td colspan=2>Group<tr><td>1<td>2", ("A B", "Group -", "1 2")),
        ("<tr><th colspan=3>A<th colspan=3>B<tr><td colspan=3>1<td colspan=3>2", ("A B", "1 2")),
        ("<tr><th>A<th><th>B<tr><td>1<td><td>2", ("A B", "1 2")),
        (
            "<tfoot><tr><td>sum<td>3</tfoot><tbody><tr><td>a<td>3</tbody><thead><tr><th>A<th>B</thead>",
            ("A B", "a 3", "sum 3"),
        ),
    ],
    ids=[
        "empty-cells",
        "short-rows",
        "rowspan",
        "rowspan-0",
        "rowspan-too-long",
        "two-header-rows",
        "both-spans",
        "title-row",
        "all-spanned",
        "empty-column",
        "order",
    ],
)
def test_cells_are_in_their_columns(html: str, expected: tuple[str, ...]) -> None:
    assert markdown(f"<table>{html}</table>") == table(*expected)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("<p>one</p><p>two</p>", "one two"),
        ("one<br>two", "one two"),
        ("<ul><li>one<li>two</ul>", "one two"),
        ("a|b <code>c|d</code>", "a\\|b `c\\|d`"),
        ("<pre>x  =  1</pre>", "`x = 1`"),
    ],
)
def test_cell_is_one_line(cell: str, expected: str) -> None:
    assert markdown(f"<table><tr><th>A<th>B<tr><td>1<td>{cell}</table>").endswith(f"| 1 | {expected} |")


def test_caption_is_above_its_table() -> None:
    html = "<p>Text.</p><table><caption>Table <b>1</b></caption><tr><th>A<th>B<tr><td>1<td>2</table><p>More."
    assert markdown(html) == "Text.\n\nTable 1\n\n" + table("A B", "1 2") + "\n\nMore."


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<table role=presentation><tr><td>a<td>b<tr><td>c<td>d</table>", "a\n\nb\n\nc\n\nd"),
        (
            "<table><tr><td>menu<td><table><tr><th>A<th>B<tr><td>1<td>2</table><tr><td>x<td>y</table>",
            "menu\n\n" + table("A B", "1 2") + "\n\nx\n\ny",
        ),
        ("<table><tr><td>a<tr><td>b</table>", "a\n\nb"),
        ("<table><tr><td>a<td>b</table>", "a\n\nb"),
        ("<table><tr><td><h2>a</h2><td>b<tr><td>c<td>d</table>", "## a\n\nb\n\nc\n\nd"),
        ("<table><tr><td><form>a</form><td>b<tr><td>c<td>d</table>", "a\n\nb\n\nc\n\nd"),
        (f"<table><tr><td>a<td>{PROSE}{PROSE}<tr><td>c<td>d</table>", f"a\n\n{(PROSE * 2).strip()}\n\nc\n\nd"),
        ("<table><tr><th>a<th>b<tr><td>c<td><pre>d\n  e</pre></table>", "a\n\nb\n\nc\n\n```\nd\n  e\n```"),
    ],
    ids=["role", "nested", "one-column", "one-row", "heading", "form", "long-cell", "code"],
)
def test_layout_tables_are_ordinary_blocks(html: str, expected: str) -> None:
    assert markdown(html) == expected


def test_marked_table_may_have_long_cells_headings_and_buttons() -> None:
    html = f"<table><tr><th><h3>A</h3><th>B<tr><td><button>1</button><td><h4>C</h4>{PROSE * 2}</table>"
    assert markdown(html) == f"| A | B |\n| --- | --- |\n| 1 | C {PROSE * 2}".rstrip() + " |"


def test_table_is_kept_or_left_out_as_a_whole() -> None:
    html = "<p>Text.</p><table><tr><th>Name<th>Time<tr><td>Ann<td>1:02<tr><td>Bea<td>1:03</table><p>More.</p>"
    page = read_blocks(HTMLTree.parse(html).document.html)
    scores = np.array([0.9, 0.6, 0.02, 0.02, 0.6, 0.02, 0.6, 0.2])
    assert keep_tables(page, scores, 0.5) == [True] * 7 + [False]
    assert keep_tables(page, np.array([0.4, *[0.05] * 6, 0.2]), 0.5) == [False] * 8


def test_table_between_kept_paragraphs_is_kept() -> None:
    html = "<div><p>Text.</p><table><tr><th>A<th>B<tr><td>1<td>2</table></div><p>More.</p>"
    page = read_blocks(HTMLTree.parse(html).document.html)
    assert keep_tables(page, np.array([0.9, *[0.01] * 4, 0.2]), 0.5) == [True] * 5 + [False]
    assert keep_tables(page, np.array([0.1, *[0.01] * 4, 0.9]), 0.5) == [False] * 5 + [True]


def test_table_of_a_cookie_box_is_kept_only_for_its_own_score() -> None:
    html = "<div class=cookie-consent><p>Text.</p><table><tr><th>A<th>B<tr><td>1<td>2</table></div>"
    page = read_blocks(HTMLTree.parse(html).document.html)
    assert keep_tables(page, np.array([0.9, *[0.4] * 4]), 0.5) == [True] + [False] * 4
    assert keep_tables(page, np.array([0.1, *[0.6] * 4]), 0.5) == [False] + [True] * 4


@pytest.mark.parametrize("box", ["<aside class=widget>", "<div class=sidebar>", "<footer>"])
def test_table_of_an_aside_is_kept_for_its_own_score_or_a_kept_block_beside_it(box: str) -> None:
    html = f"<p>Text.</p>{box}<p>Days.</p><table><tr><th>M<th>T<tr><td>1<td>2</table>"
    page = read_blocks(HTMLTree.parse(html).document.html)
    assert keep_tables(page, np.array([0.9, 0.2, *[0.4] * 4]), 0.5) == [True] + [False] * 5
    assert keep_tables(page, np.array([0.9, 0.2, *[0.6] * 4]), 0.5) == [True, False] + [True] * 4
    assert keep_tables(page, np.array([0.9, 0.8, *[0.2] * 4]), 0.5) == [True] * 6


def test_names_stay_in_a_long_table_of_results() -> None:
    rows = "".join(f"<tr><td>{n}<td><a href='/r/{n}'>Runner {n}</a><td>{n % 60} min" for n in range(1, 400))
    html = f"<main><h1>Results</h1><p>{PROSE}</p><table><tr><th>Place<th>Name<th>Time{rows}</table></main>"
    text = extract_page(html.encode(), None).text
    assert [f"| {n} | Runner {n} | {n % 60} min |" in text for n in range(1, 400)] == [True] * 399


@pytest.mark.parametrize(
    "html",
    [
        "<tr>" + "<td>1" * 1000 + "<tr><td>1<td>2" * 3000,
        "<tr>" + "<td colspan=1000>1" * 3000 + "<tr><td>1<td>2",
        ("<tr><td>1<td>2" * 5000).replace("1", f"<td rowspan=6000>{PROSE}", 1),
        "<tr><td rowspan=999999999999999999>a<td colspan=-3>b<tr><td rowspan=x>c",
    ],
)
def test_tables_made_to_grow_are_bounded(html: str) -> None:
    text = markdown(f"<table>{html}</table>")
    assert len(text) < 4 * len(html) + 100


def test_only_tables_of_data_are_listed() -> None:
    html = "<table><tr><td><table><tr><td>a<td>b<tr><td>c<td>d</table></table><table><tr><td></table>"
    page = read_blocks(HTMLTree.parse(html).document.html)
    assert [(found.start, found.end) for found in data_tables(page)] == [(0, 4)]
