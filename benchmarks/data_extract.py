"""Extraction of HTML pages, ours beside trafilatura and datatrove's step: word F1 by page kind, pages a CPU second.

F1 is that of word bags, as the mean over pages, where a page without text counts 0. Speed is parsing and extraction
of decoded pages in one thread, tools interleaved in chunks of pages; the table has the ratio of CPU seconds. Peers run
in environments of their own, trafilatura 2 in one, datatrove (which asks for trafilatura below 1.12) in another;
without one, ours is measured alone.

    python -m venv peer && peer/bin/pip install trafilatura==2.3.1 lxml_html_clean
    python -m venv other && other/bin/pip install "datatrove[io,processing]==0.10.1" lxml_html_clean

    python benchmarks/data_extract.py FOLDER_OF_HTML [--pages 150] [--peer-python PATH] [--output FILE.json]
    python benchmarks/data_extract.py PAGES.warc.gz --truth TRUTH.jsonl [--peer-python PATH] [--half 0|1]

`TRUTH.jsonl` has `id`, `type` and `text` a line; a record's id in the WARC ends with `:id`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

# As in the stage's workers; idle threads of the linear algebra would be counted as ours.
os.environ["OMP_NUM_THREADS"] = "1"

CHUNK = 10
PEER = """
import json, sys, time
try:
    import trafilatura
except ImportError as error:
    sys.exit(f"trafilatura cannot be imported: {error}")
try:
    from datatrove.pipeline.extractors import Trafilatura
    tools = {"trafilatura": trafilatura.extract, "datatrove": Trafilatura().extract}
except ImportError:
    tools = {"trafilatura": trafilatura.extract}
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
WORD = re.compile(r"\w+")


def word_f1(found: str, truth: str) -> float:
    one, other = Counter(WORD.findall(found.lower())), Counter(WORD.findall(truth.lower()))
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


class Peer:
    """The tools of another environment, one page at a time."""

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


def read_pages(path: Path, truth: Path | None, most: int) -> list[dict[str, Any]]:
    from longcat.stages.data.extract.decode import decode

    if truth is None:
        files = sorted(file for file in path.rglob("*.html") if file.is_file())
        files = files[:: max(1, len(files) // most)][:most]
        return [{"page": decode(file.read_bytes(), is_html=True).text} for file in files]
    from fastwarc.warc import ArchiveIterator

    known = {item["id"]: item for item in map(json.loads, truth.read_bytes().splitlines())}
    pages = []
    with path.open("rb") as stream:
        for record in ArchiveIterator(stream):
            item = known.get(str(record.record_id).strip("<>").rpartition(":")[2])
            if item:
                pages.append({**item, "page": decode(record.reader.read(), is_html=True).text})
    return pages[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages_path", type=Path, metavar="FOLDER_OR_WARC")
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--half", type=int, choices=(0, 1), help="only pages whose id has this CRC-32 modulo 2")
    parser.add_argument("--peer-python")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pages = read_pages(options.pages_path, options.truth, options.pages)
    if options.half is not None:
        pages = [page for page in pages if zlib.crc32(page["id"].encode()) % 2 == options.half]
    peer = Peer(options.peer_python) if options.peer_python else None
    if peer is None:
        print("no --peer-python: ours alone", file=sys.stderr)
    tools = ["longcat", *(peer.about["tools"] if peer else [])]
    seconds: dict[str, list[float]] = defaultdict(list)
    scores: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in tools}
    ours("<p>warm</p>")
    for start in range(0, len(pages), CHUNK):
        for name in tools:
            for item in pages[start : start + CHUNK]:
                text, spent = (
                    ours(item["page"]) if name == "longcat" or peer is None else peer.extract(name, item["page"])
                )
                seconds[name].append(spent)
                if options.truth:
                    value = word_f1(text, item["text"])
                    scores[name]["all"].append(value)
                    scores[name][item["type"]].append(value)
    rows = []
    for name in tools:
        total = sum(seconds[name])
        row: dict[str, Any] = {
            "tool": name,
            "pages": len(pages),
            "cpu_seconds": total,
            "pages_per_cpu_second": len(pages) / total,
        }
        row["median_milliseconds"] = statistics.median(seconds[name]) * 1000
        row["times_slower"] = total / sum(seconds["longcat"])
        row["f1"] = {kind: sum(values) / len(values) for kind, values in sorted(scores[name].items())}
        rows.append(row)
        shares = "  ".join(f"{kind} {value:.3f}" for kind, value in row["f1"].items())
        print(f"{name:12} {row['pages_per_cpu_second']:8.1f} pages/CPU-s {row['times_slower']:6.2f}x  {shares}")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
