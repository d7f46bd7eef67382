"""Fuzzing of the readers and of page extraction with atheris (libFuzzer): `make fuzz`.

    python tests/fuzz/fuzz_extract.py readers -max_total_time=60
    python tests/fuzz/fuzz_extract.py pages -max_total_time=60

For any input bytes, a reader must give records and named problems, and a page must give text that can be encoded as
JSON. Any exception, a crash of the parser, a division by zero in numpy, or use of more than 10 seconds or 2 GiB is a
finding; its input is saved in `.fuzz/`. All further arguments go to libFuzzer; pass the name of a saved file to run it
again.
"""

from __future__ import annotations

import atexit
import gzip
import io
import shutil
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import atheris
import numpy as np

with atheris.instrument_imports(include=["longcat.stages.data.extract", "longcat.pipeline.documents"]):
    from longcat.pipeline.documents import Document
    from longcat.pipeline.errors import InputError
    from longcat.stages.data.extract.config import ExtractConfig
    from longcat.stages.data.extract.content import blocks, features, head, markdown, scorer  # noqa: F401  imported for instrumentation
    from longcat.stages.data.extract.html import extract_page
    from longcat.stages.data.extract.inputs import InputFile
    from longcat.stages.data.extract.reader import read_file
    from longcat.stages.data.extract.records import Problem, Record
    from longcat.stages.data.extract.shard import _to_document

FOLDER = Path(".fuzz")
LIMITS = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=65536"]
# The first byte of an input selects the format.
NAMES = (
    "a.warc",
    "a.warc.gz",
    "a.warc.zst",
    "a.jsonl",
    "a.jsonl.gz",
    "a.parquet",
    "a.ipynb",
    "a.txt",
    "a.md.zst",
    "a.arc",
    "a.arc.gz",
    "a.wacz",
    "a.csv",
    "a.tsv.bz2",
    "a.jsonl.xz",
)
FORMATS = (
    "warc",
    "warc",
    "warc",
    "jsonl",
    "jsonl",
    "parquet",
    "notebook",
    "text",
    "markdown",
    "arc",
    "arc",
    "wacz",
    "csv",
    "tsv",
    "jsonl",
)
CHARSETS = (None, "utf-8", "utf-16", "windows-1252", "shift_jis", "gb18030", "iso-2022-jp", "no such")
CONFIG = ExtractConfig(max_record_bytes=1 << 20, max_expansion=50)
_FILES = Path(tempfile.mkdtemp(prefix="longcat-fuzz-"))


def fuzz_readers(data: bytes) -> None:
    """Every problem of a file has a reason and a location, and every record except pages becomes a document."""
    if not data:
        return
    number = data[0] % len(NAMES)
    path = _FILES / NAMES[number]
    path.write_bytes(data[1:])
    file = InputFile(path, "source", FORMATS[number])
    tally: Counter[str] = Counter()
    # A file that is refused as a whole, such as Parquet without the text column, gives one line of error.
    with suppress(InputError):
        for item in read_file(file, CONFIG, tally):
            check_item(item)


def check_item(item: Any) -> None:
    """A record becomes a document that can be encoded as JSON; a problem has a reason and a location."""
    made = item
    if isinstance(item, Record) and item.kind != "html":
        made = _to_document(item, "source", CONFIG)
    if isinstance(made, Document):
        made.to_line()
    elif isinstance(made, Problem):
        assert made.reason
        assert set(made.place) <= {"offset", "line", "row"}
        assert made.place


def fuzz_pages(data: bytes) -> None:
    """A page of any bytes gives text, and its metadata fits into a document."""
    if not data:
        return
    page = extract_page(data[1:], CHARSETS[data[0] % len(CHARSETS)])
    assert "\0" not in page.text
    told = {"title": page.title, "language": page.language, "date": page.date, "url": page.canonical}
    Document("id", page.text, "source", metadata=told).to_line()


def record(body: bytes, content_type: bytes = b"text/html", extra: bytes = b"") -> bytes:
    """Build a WARC response record."""
    http = b"HTTP/1.1 200 OK\r\nContent-Type: " + content_type + b"\r\n" + extra + b"\r\n" + body
    head = b"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\nWARC-Target-URI: http://a.example/\r\n"
    return head + b"Content-Type: application/http\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n" % (len(http), http)


PAGE = b"""<!DOCTYPE html><html lang="en"><head><title>Rivers</title><meta charset="utf-8">
<script type="application/ld+json">{"@type": "Article", "articleBody": "text", "datePublished": "2024-01-02"}</script>
<link rel="canonical" href="http://a.example/x"></head><body><nav><a href="/">Home</a></nav><main><h1>Rivers</h1>
<p>The ferry carried people across until the first bridge was opened, and nobody living remembers it.</p>
<pre><code class="language-python">print("x")</code></pre><ul><li>one<li>two</ul><table><tr><th>a<td>b</table>
<math><mfrac><mi>x</mi><mn>2</mn></mfrac><annotation encoding="application/x-tex">x/2</annotation></math>
<script type="math/tex">a_1</script><span class="katex">y</span><noscript>n</noscript><blockquote>q</blockquote>
</main><footer>&copy; 2024 &#0; &nbsp;</footer></body></html>"""
NOTEBOOK = b"""{"cells": [{"cell_type": "markdown", "source": ["# a"]}, {"cell_type": "code", "source": "x", "outputs":
[{"output_type": "stream", "text": "t"}, {"data": {"text/plain": "p"}}]}],
"metadata": {"language_info": {"name": "r"}}}"""


def seeds(target: str) -> dict[str, bytes]:
    """Seed inputs by name."""
    import zstandard

    if target == "pages":
        return {f"page-{number}": bytes([number]) + PAGE for number in range(len(CHARSETS))}
    chunked = record(b"5\r\nhello\r\n0\r\n\r\n", b"text/plain", b"Transfer-Encoding: chunked\r\n")
    coded = record(gzip.compress(b"a page", mtime=0), b"text/html; charset=utf-8", b"Content-Encoding: gzip\r\n")
    others = record(b"x", b"application/pdf") + record(NOTEBOOK, b"application/x-ipynb+json")
    crawl = record(PAGE) + chunked + coded + others
    lines = b'{"text": "a", "id": 1, "url": "u", "metadata": {"kind": "code"}}\n{"text": null}\nbroken\n'
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    whole = (
        crawl,
        gzip.compress(record(PAGE), mtime=0) + gzip.compress(chunked, mtime=0),
        compress(record(PAGE)) + compress(chunked),
        lines,
        gzip.compress(lines, mtime=0),
        _parquet(),
        NOTEBOOK,
        b"text \xff\xfe of no encoding",
        compress(b"# markdown"),
    )
    return {f"{NAMES[number]}": bytes([number]) + data for number, data in enumerate(whole)}


def _parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    stream = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", None], "id": [1, 2]}), stream)
    return stream.getvalue()


def main() -> None:
    """Fuzz the target given by the first argument, after writing the seeds to its corpus."""
    np.seterr(divide="raise", invalid="raise", over="raise")
    targets = {"readers": fuzz_readers, "pages": fuzz_pages}
    if len(sys.argv) < 2 or sys.argv[1] not in targets:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(targets)} [libFuzzer's arguments]")
    name = sys.argv[1]
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed, data in seeds(name).items():
        (corpus / f"seed-{seed}").write_bytes(data)
    atexit.register(shutil.rmtree, _FILES, ignore_errors=True)
    given = sys.argv[2:]
    places = [] if any(not argument.startswith("-") for argument in given) else [str(corpus)]
    atheris.Setup([sys.argv[0], *LIMITS, f"-artifact_prefix={FOLDER}/{name}-", *given, *places], targets[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
