"""Extraction of HTML pages, ours beside other extractors: word F1 by page type, F1 of snippets, pages per CPU second.

F1 compares bags of words and is averaged over pages; a page without text counts as 0. Speed covers parsing and
extraction of decoded pages in one thread, with the tools interleaved in chunks of pages; the table shows the ratio of
CPU seconds. Peers run in separate environments: one with trafilatura 2, one with datatrove, which requires trafilatura
below 1.12. Without a peer only ours is measured.

    python -m venv peer && peer/bin/pip install lxml_html_clean trafilatura==2.3.1 resiliparse readability-lxml
    python -m venv other && other/bin/pip install "datatrove[io,processing]==0.10.1" lxml_html_clean

    python benchmarks/data_extract.py FOLDER_OF_HTML [--pages 150] [--peer-python PATH] [--output FILE.json]
    python benchmarks/data_extract.py PAGES.warc.gz --truth TRUTH.jsonl [--peer-python PATH] [--texts FILE.jsonl] \\
        [--by-site]

`content_samples.py` describes the truth. `--texts` adds a row with texts that were made before, one `id` and `text` per
line (and `set`, the name of the truth's file, if of several), such as those of `fit_content_scorer.py --folds`, whose
weights had not seen the site. `--write-texts` writes the texts of trafilatura without comments in that form.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from content_samples import Measures, read_pages

# As in the stage's workers; CPU time of idle BLAS threads would count as ours.
os.environ["OMP_NUM_THREADS"] = "1"

CHUNK = 10
PEER = """
import json, sys, time
tools = {}
try:
    import trafilatura
    tools["trafilatura"] = trafilatura.extract
    tools["trafilatura, no comments"] = lambda page: trafilatura.extract(page, include_comments=False)
except ImportError as error:
    sys.exit(f"trafilatura cannot be imported: {error}")
try:
    from datatrove.pipeline.extractors import Trafilatura
    tools["datatrove"] = Trafilatura().extract
except ImportError:
    pass
try:
    from resiliparse.extract.html2text import extract_plain_text
    tools["resiliparse"] = lambda page: extract_plain_text(page, main_content=True)
except ImportError:
    pass
try:
    from readability import Document
    from lxml.html import fromstring
    tools["readability"] = lambda page: fromstring(Document(page).summary()).text_content()
except ImportError:
    pass
print(json.dumps({"tools": list(tools), "version": trafilatura.__version__}), flush=True)
for line in sys.stdin:
    name, page = json.loads(line)
    started = time.process_time()
    try:
        text = tools[name](page) or ""
    except Exception:
        text = ""
    print(json.dumps([text, time.process_time() - started]), flush=True)
"""
NO_COMMENTS, STORED = "trafilatura, no comments", "longcat, unseen sites"


class Peer:
    """Tools of another environment, called for one page at a time."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the peers could not be started with {python}")
        self.about = json.loads(line)

    def extract(self, name: str, page: str) -> tuple[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, page]) + "\n")
        self.process.stdin.flush()
        text, seconds = json.loads(self.process.stdout.readline())
        return text, seconds


def ours(page: str) -> tuple[str, float]:
    from longcat.stages.data.extract.html import extract_page

    data = page.encode(errors="replace")
    started = time.process_time()
    text = extract_page(data, "utf-8").text
    return text, time.process_time() - started


def read_set(path: Path, truth: Path | None, most: int) -> list[dict[str, Any]]:
    from longcat.stages.data.extract.decode import decode

    if truth is None:
        files = sorted(file for file in path.rglob("*.html") if file.is_file())
        files = files[:: max(1, len(files) // most)][:most]
        return [{"page": decode(file.read_bytes(), is_html=True).text} for file in files]
    return [{**item, "page": decode(data, is_html=True).text} for item, data in read_pages(path, truth)][:most]


def measure(pages: list[dict[str, Any]], peer: Peer | None, stored: dict[str, str]) -> list[dict[str, Any]]:
    """Rows of the table; the tools take turns, `CHUNK` pages each."""
    tools = ["longcat", *(peer.about["tools"] if peer else [])]
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    measures = {name: Measures() for name in [*tools, *([STORED] if stored else [])]}
    ours("<p>warm</p>")
    for start in range(0, len(pages), CHUNK):
        for name in tools:
            for item in pages[start : start + CHUNK]:
                is_ours = name == "longcat" or peer is None
                text, spent = ours(item["page"]) if is_ours else peer.extract(name, item["page"])
                seconds[name].append(spent)
                if "id" in item:
                    measures[name].add(item, text)
                if name == NO_COMMENTS:
                    item["taught"] = text
    for item in pages if stored else ():
        measures[STORED].add(item, stored.get(item["id"], ""))
    return [_row(name, seconds.get(name, []), seconds["longcat"], measures[name]) for name in measures]


def _row(name: str, seconds: list[float], ours: list[float], measures: Measures) -> dict[str, Any]:
    row: dict[str, Any] = {"tool": name, "f1": measures.summary(), "sites": measures.sites}
    if seconds:
        row |= {"pages": len(seconds), "cpu_seconds": sum(seconds), "times_slower": sum(seconds) / sum(ours)}
        row["median_milliseconds"] = statistics.median(seconds) * 1000
    return row


def show(row: dict[str, Any]) -> None:
    speed = (
        f"{row['pages'] / row['cpu_seconds']:8.1f} pages/CPU-s {row['times_slower']:6.2f}x" if "pages" in row else ""
    )
    print(f"{row['tool']:25}{speed:30}  " + "  ".join(f"{kind} {value:.3f}" for kind, value in row["f1"].items()))


def show_sites(rows: list[dict[str, Any]]) -> None:
    """A Markdown table of the word F1 by site, with the number of pages."""
    print(f"| | pages | {' | '.join(row['tool'] for row in rows)} |")
    print("|---" * (len(rows) + 2) + "|")
    for name, values in rows[0]["sites"].items():
        means = (statistics.mean(row["sites"][name]) for row in rows)
        print(f"| {name} | {len(values)} | {' | '.join(f'{mean:.3f}' for mean in means)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("pages_path", type=Path, metavar="FOLDER_OR_WARC")
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--pages", type=int, default=2000)
    parser.add_argument("--by-site", action="store_true")
    parser.add_argument("--peer-python")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--write-texts", type=Path)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pages = read_set(options.pages_path, options.truth, options.pages)
    peer = Peer(options.peer_python) if options.peer_python else None
    if peer is None:
        print("no --peer-python: measuring ours only", file=sys.stderr)
    lines = options.texts.read_bytes().splitlines() if options.texts else []
    name = options.truth.stem if options.truth else None
    stored = [item for item in map(json.loads, lines) if item.get("set", name) == name]
    rows = measure(pages, peer, {item["id"]: item["text"] for item in stored})
    for row in rows:
        show(row)
    if options.by_site:
        show_sites(rows)
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")
    if options.write_texts:
        taught = [json.dumps({"id": item["id"], "text": item["taught"]}) + "\n" for item in pages if "taught" in item]
        options.write_texts.write_text("".join(taught), encoding="utf-8")


if __name__ == "__main__":
    main()
