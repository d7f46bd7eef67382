"""Loss by position, compared with the model's own logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longcat.model.checkpoint import load_pretrained
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.files import read_json
from longcat.pipeline.tokens import TokenFile
from longcat.stages.evaluate import positions
from longcat.stages.evaluate.config import PositionOptions
from longcat.stages.evaluate.positions import edges, run_positions
from longcat.stages.inference.loading import load_engine


def test_edges() -> None:
    assert edges(100) == [0, 100]
    assert edges(1024) == [0, 256, 512, 1024]
    assert edges(1025) == [0, 256, 512, 1024, 1025]


@pytest.fixture
def validation(tokens: Artifact) -> TokenFile:
    return TokenFile(tokens.path / "validation")


def test_buckets_by_hand(short: Artifact, validation: TokenFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positions, "FIRST_EDGE", 8)
    lengths = np.diff(validation.document_offsets)
    length = 40
    assert (lengths >= length).sum() > 3
    engine = load_engine(short.path, device="cpu")
    found = run_positions(engine, validation, PositionOptions(length=length, documents=3), lambda _: None)
    long = [number for number, size in enumerate(lengths) if size >= length]
    chosen = [long[row * len(long) // 3] for row in range(3)]
    model, losses = load_pretrained(short.path), []
    for number in chosen:
        ids = torch.tensor([validation.document(number)[:length].tolist()])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1, : engine.vocab_size].double()
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").numpy())
    expected = np.stack(losses)  # column t - 1: the token after t tokens
    assert [(each["from"], each["to"]) for each in found["buckets"]] == [(0, 8), (8, 16), (16, 32), (32, 40)]
    for each in found["buckets"]:
        part = expected[:, max(each["from"], 1) - 1 : each["to"] - 1]
        assert each["tokens"] == part.size
        assert each["loss"] == pytest.approx(part.mean(), abs=1e-4)
        error = part.mean(axis=1).std(ddof=1) / np.sqrt(3)
        assert each["standard_error"] == pytest.approx(error, abs=1e-4)


def test_only_whole_buckets_within_the_context(
    short: Artifact, make_long: TokenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(positions, "FIRST_EDGE", 32)
    engine = load_engine(short.path, device="cpu")  # a context of 96
    read: list[int] = []
    found = run_positions(engine, make_long, PositionOptions(length=200), read.append)
    assert [(each["from"], each["to"]) for each in found["buckets"]] == [(0, 32), (32, 64)]
    assert (read, found["documents"]) == ([96], 1)
    assert found["buckets"][0]["standard_error"] == 0


@pytest.fixture
def make_long(tokens: Artifact, tmp_path: Path) -> TokenFile:
    """A short and a long document."""
    from longcat.pipeline.tokens import TokenWriter

    joined = TokenFile(tokens.path / "validation").tokens[:300]
    with TokenWriter(tmp_path / "long", 1024) as writer:
        writer.add_document(joined[:20].tolist())
        writer.add_document(joined.tolist())
    return TokenFile(tmp_path / "long")


def test_without_long_documents_it_says_so(run_stage: Any, tokens: Artifact, short: Artifact, long: Artifact) -> None:
    config = {
        "windows": 1,
        "needle": {"lengths": []},
        "samples": {"prompts": []},
        "device": "cpu",
        "threads": 1,
        "labels": ["short", "long"],
    }
    inputs = {"checkpoints": [short, long], "tokens": tokens}
    made = run_stage("evaluate", config | {"positions": {"length": 5000}}, inputs)
    assert "short: no validation document has 5,000 tokens; of 40 documents" in made.file("report.md").read_text()
    made = run_stage("evaluate", config | {"positions": {"length": 40}}, inputs)
    first, second = read_json(made.file("evaluation.json"))["checkpoints"]
    report = made.file("report.md").read_text()
    (row,) = [line for line in report.splitlines() if line.startswith("| 0 – 40 |")]
    assert row == f"| 0 – 40 | {cell(first)} | {cell(second)} |"
    assert made.file("positions.svg").read_text().count("<circle") == 2


def cell(result: dict[str, Any]) -> str:
    (bucket,) = result["positions"]["buckets"]
    return f"{bucket['loss']:.4f} ± {bucket['standard_error']:.4f}"
