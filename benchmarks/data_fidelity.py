"""How true extraction is to code and tables: ours beside trafilatura's markdown, on pages of which the source is known.

Three sets: HTML written by Sphinx with the reStructuredText it was made from, which is read with docutils; Python
files shown by the code viewers of the web; both without looking at either tool's output.

Code and table text: 1 - Levenshtein distance / longer length, as the mean over pages, of all code, or all cells, of a
page one after the other; blanks at the ends of lines and empty lines do not count. TEDS (Zhong et al. 2020,
arXiv:1911.10683): tree edit distance of each table without spans to the most similar table found, 0 if there is none.

    python -m venv --system-site-packages bench && bench/bin/pip install rapidfuzz apted docutils pygments
    python -m venv peer && peer/bin/pip install trafilatura==2.3.1 lxml_html_clean
    apt-get download python3.11-doc && dpkg-deb -x python3.11-doc_*.deb pages
    bench/bin/python benchmarks/data_fidelity.py --sphinx pages/usr/share/doc/python3.11/html \\
        --peer-python peer/bin/python
    bench/bin/python benchmarks/data_fidelity.py --viewers FOLDER_OF_PYTHON_FILES --peer-python peer/bin/python
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fidelity_viewers import VIEWERS, page_of

PEER = """
import json, sys
import trafilatura
for line in sys.stdin:
    try:
        text = trafilatura.extract(json.loads(line), output_format="markdown", include_tables=True) or ""
    except Exception:
        text = ""
    print(json.dumps(text), flush=True)
"""
FENCE = re.compile(r"^[ ]*(`{3,})[^\n`]*\n(.*?)^[ ]*\1[ ]*$", re.M | re.S)
TABLE = re.compile(r"(?:^[ ]*\|.*\|[ ]*(?:\n|\Z))+", re.M)
RULE = re.compile(r"[\s|:-]*-[\s|:-]*$")
CELLS = re.compile(r"(?<!\\)\|")
UNESCAPED = re.compile(r"\\([_*<>`\[\]#])")
# Code that is not in the source.
INCLUDED = re.compile(r"^\s*\.\. (?:literalinclude|include|productionlist)::", re.M)
MARKS = re.compile(r"[`*]")
# Sphinx typesets these in text.
TYPESET = str.maketrans({"—": "---", "–": "--", "’": "'", "‘": "'", "“": '"', "”": '"', "…": "..."})

Table = list[list[str]]  # rows of cells, without spans


@dataclass
class Truth:
    """What a page holds: its code, the text of all of its tables, and those without spans."""

    name: str
    html: str
    code: list[str] = field(default_factory=list)
    table_text: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)


def code_of(markdown: str) -> list[str]:
    """Fenced code."""
    return [found[2] for found in FENCE.finditer(markdown)]


def tables_of(markdown: str) -> list[Table]:
    """Pipe tables, without code around them and marks of emphasis in them."""
    found = []
    for match in TABLE.finditer(FENCE.sub("", markdown)):
        rows = [line.strip().strip("|") for line in match[0].splitlines() if not RULE.match(line)]
        found.append([[plain(cell) for cell in CELLS.split(row)] for row in rows])
    return found


def plain(cell: str) -> str:
    text = cell.replace("\\|", "|").replace("<br>", " ")
    return " ".join(MARKS.sub("", UNESCAPED.sub(r"\1", text)).translate(TYPESET).split())


def similarity(one: str, other: str) -> float:
    from rapidfuzz.distance import Levenshtein

    return Levenshtein.normalized_similarity(one, other)


def normal(code: list[str]) -> str:
    """Code as one text; lines without characters, which renderers add and drop at will, are left out."""
    return "\n".join(line.rstrip() for text in code for line in text.expandtabs().splitlines() if line.strip())


def teds(one: Table, other: Table) -> float:
    """Similarity of two tables by the distance of their trees of rows and cells."""
    from apted import APTED, Config

    @dataclass
    class Node:
        name: str
        text: str = ""
        children: tuple[Any, ...] = ()

    class Costs(Config):  # type: ignore[misc]
        def rename(self, node1: Node, node2: Node) -> float:
            if node1.name != node2.name:
                return 1.0
            return 1 - similarity(node1.text, node2.text) if node1.name == "td" else 0.0

    def tree(table: Table) -> tuple[Node, int]:
        rows = [Node("tr", "", tuple(Node("td", cell) for cell in row)) for row in table]
        return Node("table", "", tuple(rows)), 1 + sum(1 + len(row) for row in table)

    (first, size), (second, other_size) = tree(one), tree(other)
    distance = APTED(first, second, Costs()).compute_edit_distance()
    return max(0.0, 1 - float(distance) / max(size, other_size))


def scores(truth: Truth, markdown: str) -> Iterator[tuple[str, float]]:
    """Names of measures and the values of this page."""
    found = tables_of(markdown)
    if truth.code:
        yield "code", similarity(normal(truth.code), normal(code_of(markdown)))
    if truth.table_text:
        text = "\n".join(cell for table in found for row in table for cell in row if cell)
        yield "table text", similarity("\n".join(truth.table_text), text)
    for table in truth.tables:
        words = " ".join(cell for row in table for cell in row)
        if len(words) > 20_000:
            continue
        near = sorted(found, key=lambda other: -similarity(words, " ".join(c for row in other for c in row)))
        yield "TEDS", max((teds(table, other) for other in near[:2]), default=0.0)


def sphinx_pages(folder: Path, most: int) -> Iterator[Truth]:
    """Pages beside `_sources`, with the code and the tables of their source."""
    from fidelity_rst import read_truth

    sources = sorted((folder / "_sources").rglob("*.rst.txt"))
    count = 0
    for source in sources:
        page = folder / source.relative_to(folder / "_sources").with_suffix("").with_suffix(".html")
        if not page.is_file():
            continue
        text = source.read_text(encoding="utf-8")
        if INCLUDED.search(text):
            continue
        code, table_text, tables = read_truth(text)
        table_text = [plain(cell) for cell in table_text]
        tables = [[[plain(cell) for cell in row] for row in table] for table in tables]
        if code or table_text:
            count += 1
            yield Truth(page.stem, page.read_text(encoding="utf-8", errors="replace"), code, table_text, tables)
        if count == most:
            return


def viewer_pages(folder: Path, most: int) -> Iterator[Truth]:
    """Each file in each viewer."""
    files = [file for file in sorted(folder.rglob("*.py")) if 1000 < file.stat().st_size < 20_000]
    for file in files[:: max(1, len(files) // most)][:most]:
        code = file.read_text(encoding="utf-8", errors="replace")
        for name, viewer in VIEWERS.items():
            yield Truth(name, page_of(viewer(code), file.name), [code])


def ours(html: str) -> str:
    from longcat.stages.data.extract.html import extract_page

    return extract_page(html.encode(errors="replace"), "utf-8").text


class Peer:
    """trafilatura in another environment."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )

    def __call__(self, html: str) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(html) + "\n")
        self.process.stdin.flush()
        text: str = json.loads(self.process.stdout.readline())
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--sphinx", type=Path, metavar="HTML_FOLDER")
    parser.add_argument("--viewers", type=Path, metavar="PYTHON_FOLDER")
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--peer-python")
    parser.add_argument("--worst", type=int, default=0, help="show this many pages of ours with the lowest values")
    options = parser.parse_args()
    if not (options.sphinx or options.viewers):
        parser.error("one of --sphinx and --viewers is needed")
    tools = {"longcat": ours, **({"trafilatura": Peer(options.peer_python)} if options.peer_python else {})}
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    low: list[tuple[float, str, str]] = []
    for truth in (
        sphinx_pages(options.sphinx, options.pages) if options.sphinx else viewer_pages(options.viewers, options.pages)
    ):
        for tool, extract in tools.items():
            for measure, value in scores(truth, extract(truth.html)):
                name = truth.name if options.viewers else measure
                values[name, tool].append(value)
                if tool == "longcat":
                    low.append((value, measure, truth.name))
    print("| | " + " | ".join(tools) + " | of |\n|---|" + "---|" * (len(tools) + 1))
    for name in dict.fromkeys(name for name, _ in values):
        means = [f"{statistics.fmean(values[name, tool]):.3f}" for tool in tools]
        print(f"| {name} | " + " | ".join(means) + f" | {len(values[name, 'longcat'])} |")
    for value, measure, name in sorted(low)[: options.worst]:
        print(f"{value:.3f} {measure} {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
