"""A small store like the one made by `make demo`, and a folder with the input files that the pages use."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from longcat.cli.app import run
from tests.docs.blocks import ROOT

PROSE = "The river rises in the hills to the north of the town and it has run for thirty miles when it meets the sea. "
LABELS = ("positive", "negative")
TRAIN = {"sequence_length": 32, "batch_size": 2, "schedule": {"total_steps": 4}}


def miniature() -> dict[str, Any]:
    """The demo recipe with the same steps and names and minimal sizes."""
    recipe: dict[str, Any] = yaml.safe_load((ROOT / "stages" / "recipes" / "demo.yaml").read_text())
    steps = recipe["steps"]
    steps["crawl"]["config"] = {"limit": 24}
    steps["tokenizer"]["config"] = {"vocab_size": 320}
    steps["tokens"]["config"] = {"validation_fraction": 0.3}
    steps["base"]["config"] = {"preset": "smoke", "steps": 2, **TRAIN}
    steps["grown-on"]["config"] = {"steps": 2, **TRAIN}
    phase = {"sequence_length": 64, "rope_theta": 5e6, "steps": 1, "batch_size": 1}
    steps["extended"]["config"] = {"phases": [phase]}
    steps["evaluation"]["config"] = {
        "labels": ["base", "grown", "grown-on", "extended"],
        "sequence_length": 32,
        "windows": 1,
        "needle": {"lengths": [64], "depths": [0.5], "trials": 1},
        "samples": {"max_tokens": 1},
    }
    return recipe


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the store `longcat-store`, in which the demo ran twice up to its filter."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo.yaml").write_text(yaml.safe_dump(miniature(), sort_keys=False))
    common = ["--quiet", "--store", str(folder / "longcat-store"), "--workers", "1", "run", str(folder / "demo.yaml")]
    assert run(common) == 0
    assert run([*common, "--set", "filtered.gopher_quality.min_words=80", "--until", "filtered"]) == 0
    assert run([*common, "--set", "evaluation.windows=2", "--from", "evaluation"]) == 0
    proxy = ["--preset", "smoke", "--steps", "1", "--grid", "learning_rate=1e-3", "--set", "sequence_length=32"]
    assert run([*common[:3], "train", "sweep", "--tokens", "tokens", *proxy]) == 0
    model = str(folder / "models" / "LongCat-Flash-Chat")
    assert run([*common[:3], "export", "extended", "--output", model]) == 0
    return folder


@pytest.fixture
def world(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Working folder of the reader of a page: the store of the demo and input files."""
    for name in ("longcat-store", "models"):
        shutil.copytree(demo / name, tmp_path / name)
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    return tmp_path


def write_files(folder: Path) -> None:
    """Write the input files that the pages use, under the same names."""
    documents = [
        {"id": str(row), "text": f"Number {row}. {PROSE * (row % 7 + 2)}", "metadata": {"quality": LABELS[row % 2]}}
        for row in range(60)
    ]
    lines = "".join(json.dumps(each) + "\n" for each in documents).encode()
    for name in ("dump.jsonl.zst", "corpus.jsonl.zst"):
        text = lines.replace(b'"text"', b'"content"') if name.startswith("corpus") else lines
        (folder / name).write_bytes(zstandard.compress(text))
    pq.write_table(pa.Table.from_pylist(documents), folder / "part-0.parquet")
    html = [{"id": str(number), "html": "<p>A page about sorting.</p>"} for number in range(2)]
    pq.write_table(pa.Table.from_pylist(html), folder / "pages.parquet")
    for name in (
        "site",
        "notes",
        "web",
        "stem",
        "code",
        "good",
        "bad",
        "rated",
        "repository",
        "crawls",
        "mydata",
        "books",
    ):
        (folder / name).mkdir()
    (folder / "site" / "index.html").write_text(f"<html><body><main><p>{PROSE * 5}</p></main></body></html>")
    (folder / "books" / "river.txt").write_text(PROSE * 500)
    (folder / "notes" / "note.md").write_text(f"# A note\n\n{PROSE * 5}")
    (folder / "repository" / "main.py").write_text("def main() -> None:\n    print('Hello')\n")
    for name in ("web", "stem", "code", "good", "bad", "rated"):
        theirs = lines.replace(b"the", name.encode())
        (folder / name / "documents.jsonl").write_bytes(theirs)
    for name in ("crawls", "mydata"):
        (folder / name / "pages.warc.gz").write_bytes(warc())
    (folder / "sample.warc.gz").write_bytes(warc())
    (folder / "urls.txt").write_text("http://127.0.0.1:9/\n")
    (folder / "domains.txt").write_text("blocked.example\n")
    (folder / "hosts.gz").write_bytes(gzip.compress(b"0.0.0.0 blocked.example\n"))
    question = {"question": "What is the sum of nineteen and twenty-three apples?", "answer": "42", "task_id": "a"}
    code = {"prompt": "def add(a, b):", "canonical_solution": "return a + b", "task_id": "b"}
    (folder / "prompt.txt").write_text("To install the package, run\n")
    (folder / "prompts.jsonl").write_text('{"prompt": "The river"}\n{"prompt": "The town", "max_tokens": 4}\n')
    (folder / "gsm8k_test.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "quiz.jsonl").write_text(json.dumps(question) + "\n")
    (folder / "humaneval.jsonl").write_text(json.dumps(code) + "\n")


def warc() -> bytes:
    """WARC file with one page of prose that the filter keeps."""
    buffer = io.BytesIO()
    writer = WARCWriter(buffer, gzip=True)
    headers = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
    paragraphs = (ROOT / "LICENSE").read_text().split("\n\n")
    prose = "".join(f"<p>{' '.join(text.split())}</p>" for text in paragraphs if len(text) > 300)
    page = f"<html><body><main>{prose}</main></body></html>".encode()
    record = writer.create_warc_record(
        "http://example.org/", "response", payload=io.BytesIO(page), http_headers=headers
    )
    writer.write_record(record)
    assert gzip.decompress(buffer.getvalue())
    return buffer.getvalue()
