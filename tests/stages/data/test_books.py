"""Book-length documents: a text file is one document, which only training cuts, and continues where it was cut."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.documents import document_shards, read_documents
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.tokens import TokenFile
from longcat.stages.data.extract.config import ExtractConfig
from longcat.stages.data.extract.parts import Part
from longcat.stages.data.extract.records import InputFile
from longcat.stages.data.extract.shard import ExtractTask, extract_shard
from longcat.stages.data.inspect.lengths import lengths_report
from longcat.stages.formats.training_state import Packing
from longcat.stages.formats.training_windows import training_windows

LENGTH = 512


def write_books(folder: Path, count: int, sentences: int) -> list[str]:
    """Books whose sentences are numbered, so that every place in them is another text."""
    folder.mkdir()
    books = []
    for book in range(count):
        lines = [f"Chapter {number // 50} of book {book}, sentence {number}." for number in range(sentences)]
        books.append("\n".join(lines))
        (folder / f"book-{book:02d}.txt").write_text(books[-1])
    return books


@pytest.fixture
def books(tmp_path: Path) -> list[str]:
    return write_books(tmp_path / "books", 6, 400)


@pytest.fixture
def packed(session: Session, books: list[str], tmp_path: Path) -> Artifact:
    extracted = run_stage(session, "data.extract", {"input": [str(tmp_path / "books")]}).artifact
    assert [text.text for path in document_shards(extracted) for text in read_documents(path)] == books
    tokenizer = run_stage(session, "data.tokenizer", {"vocab_size": 280}, {"documents": extracted}).artifact
    config = {"validation_fraction": 0.2}
    return run_stage(session, "data.pack", config, {"documents": extracted, "tokenizer": tokenizer}).artifact


@pytest.mark.parametrize("packing", ["joined", "best_fit"])
def test_a_book_is_cut_at_the_end_of_a_sequence_and_continued_there(packed: Artifact, packing: Packing) -> None:
    """Every window from a book is a stretch of it, and together they have each of its tokens once, as a target."""
    train = TokenFile(packed.path / "train")
    assert np.diff(train.document_offsets).min() > 4 * LENGTH
    windows = training_windows(packed.path, sequence_length=LENGTH, seed=3, packing=packing)
    stream = train.tokens[:].astype(np.int64)
    places = {stream[at : at + 40].tobytes(): at for at in range(len(stream) - 40)}
    assert len(places) == len(stream) - 40  # forty tokens say where they are
    seen = np.zeros(len(stream), dtype=np.int64)
    for number in range(windows.windows_per_epoch):
        window = windows.sample(number)
        ends = [*window.starts[1:].tolist(), LENGTH]
        for start, end in zip(window.starts.tolist(), ends, strict=True):
            if window.trained is not None and not window.trained[start]:  # padding
                continue
            piece = window.ids[start : end + (end == LENGTH)]
            at = places.get(piece[:40].tobytes())
            if at is not None:
                np.testing.assert_array_equal(piece, stream[at : at + len(piece)])
                seen[at + 1 : at + len(piece)] += 1
    # Joined windows drop an incomplete one at the end; rests of fewer than 40 tokens were not looked up.
    assert (seen <= 1).all()
    assert seen.mean() > 0.9


def test_their_lengths_are_reported(packed: Artifact) -> None:
    (table,) = [rows for title, rows in lengths_report(packed)["tables"].items() if title == "train"]
    assert table == packed.manifest.metrics["lengths"]
    assert min(row["from"] for row in table) >= 2048
    assert sum(row["documents"] for row in table) == TokenFile(packed.path / "train").n_documents


def test_a_book_beyond_the_limit_is_named(session: Session, books: list[str], tmp_path: Path) -> None:
    (tmp_path / "books" / "encyclopedia.txt").write_text("\n".join(books))
    config: dict[str, Any] = {"input": [str(tmp_path / "books")], "max_record_bytes": len(books[-1]) + 1000}
    artifact = run_stage(session, "data.extract", config).artifact
    assert (artifact.manifest.counts["documents_out"], artifact.manifest.counts["dropped"]) == (6, {"too_large": 1})
    (problem,) = map(json.loads, artifact.file("problems.jsonl").read_text().splitlines())
    assert problem["reason"] == "too_large"
    assert "encyclopedia.txt" in json.dumps(problem)


def test_memory_is_that_of_one_book(tmp_path: Path) -> None:
    """A shard of many books takes no more than one of few."""

    def peak(count: int) -> int:
        folder = tmp_path / f"books-{count}"
        write_books(folder, count, 8000)
        parts = tuple(Part(InputFile(path, path.name, "text")) for path in sorted(folder.iterdir()))
        task = ExtractTask(0, parts, tmp_path, tmp_path, ExtractConfig())
        tracemalloc.start()
        found = extract_shard(task)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found["documents_out"] == count
        return size

    few, many = peak(2), peak(12)
    assert many < 1.3 * few
