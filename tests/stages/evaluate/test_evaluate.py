"""Stage `evaluate` compared with figures computed by hand."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from longcat.model.checkpoint import load_pretrained
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, InterruptedRunError
from longcat.pipeline.files import read_json
from longcat.pipeline.tokens import TokenFile
from longcat.stages.evaluate import run as run_module
from longcat.stages.evaluate.config import EvaluateConfig
from longcat.stages.formats.special_tokens import END

CONFIG: dict[str, Any] = {
    "sequence_length": 32,
    "windows": 5,
    "needle": {"lengths": [90, 160, 100_000], "depths": [0.0, 1.0], "trials": 2, "candidates": 4},
    "samples": {"prompts": ["Section", "x " * 500], "max_tokens": 6},
    "device": "cpu",
    "threads": 1,
}
Evaluate = Any


@pytest.fixture
def evaluate(run_stage: Any, tokens: Artifact) -> Evaluate:
    def run(checkpoints: list[Artifact], **changes: Any) -> Artifact:
        made: Artifact = run_stage("evaluate", {**CONFIG, **changes}, {"checkpoints": checkpoints, "tokens": tokens})
        return made

    return run


def backend(folder: Path) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def scored_pairs(tokens: Artifact, length: int, count: int) -> list[tuple[list[int], list[int]]]:
    """Windows as documented: evenly spread, each with `length` inputs and the tokens that follow them."""
    stream = np.fromfile(tokens.file("validation.bin"), dtype=np.uint16).tolist()
    available = math.ceil((len(stream) - 1) / length)
    starts = sorted({index * available // count * length for index in range(count)})
    return [(stream[at : at + length + 1][:-1], stream[at : at + length + 1][1:]) for at in starts]


@pytest.mark.parametrize(("document_mask", "across"), [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize(("length", "windows"), [(32, 5), (90, 1000)])
def test_loss_and_bits_per_byte_by_hand(
    evaluate: Evaluate, tokens: Artifact, short: Artifact, length: int, windows: int, document_mask: bool, across: bool
) -> None:
    options = {"document_mask": document_mask, "loss_across_documents": across}
    made = evaluate([short], sequence_length=length, windows=windows, **options)
    evaluation = read_json(made.file("evaluation.json"))
    pairs = scored_pairs(tokens, length, windows)
    # With more windows requested than available, the last one is short.
    assert (len(pairs[-1][0]) < length) == (windows == 1000)
    model, tokenizer = load_pretrained(short.path), backend(tokens.path)
    end_id = tokenizer.token_to_id(END)
    nats, text, count = 0.0, b"", 0
    for inputs, targets in pairs:
        # A document begins after the end of the one before.
        ends = [at + 1 for at, token in enumerate(inputs[:-1]) if token == end_id]
        for start, end in pairwise([0, *(ends if document_mask else ()), len(inputs)]):
            with torch.no_grad():
                logprobs = model(torch.tensor([inputs[start:end]])).logits[0].double().log_softmax(-1)
            scored = [place for place in range(start, end) if across or inputs[place] != end_id]
            nats -= sum(logprobs[place - start, targets[place]].item() for place in scored)
            # Byte-level tokens: the bytes of all targets in a row are the text of the window.
            text += b"".join(token_bytes(tokenizer, targets[place]) for place in scored)
            count += len(scored)
    measured = evaluation["checkpoints"][0]["validation"]
    assert evaluation["validation"] == {
        "sequence_length": length,
        "windows": len(pairs),
        "scored_tokens": count,
        "scored_bytes": len(text),
    }
    assert measured["loss"] == pytest.approx(nats / count, abs=1e-5)
    assert measured["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(text), abs=1e-5)
    assert measured["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert 0 < measured["standard_error"] < 1


@cache
def byte_names() -> dict[str, int]:
    """GPT-2's rule, checked against the library: printable bytes are themselves, the others are mapped above 255."""
    from tokenizers.pre_tokenizers import ByteLevel

    alphabet = set(ByteLevel.alphabet())
    printable = [byte for byte in range(256) if chr(byte) in alphabet]
    rest = [byte for byte in range(256) if byte not in printable]
    names = {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(rest)}
    assert set(names) == alphabet
    return names


def token_bytes(tokenizer: Any, token: int) -> bytes:
    text = tokenizer.id_to_token(token)
    return b"" if "longcat" in text else bytes(byte_names()[character] for character in text)


def test_bytes_of_whole_documents_are_their_text(tokens: Artifact) -> None:
    tokenizer = backend(tokens.path)
    validation = TokenFile(tokens.path / "validation")
    data = b"".join(token_bytes(tokenizer, int(token)) for token in validation.document(3))
    assert data.decode() == tokenizer.decode(validation.document(3).tolist(), skip_special_tokens=True)


def test_unigram_by_hand(evaluate: Evaluate, tokens: Artifact, short: Artifact) -> None:
    evaluation = read_json(evaluate([short]).file("evaluation.json"))
    counts = Counter(np.fromfile(tokens.file("train.bin"), dtype=np.uint16).tolist())
    total = sum(counts.values()) + 340
    targets = [target for _, part in scored_pairs(tokens, 32, 5) for target in part]
    nats = -sum(math.log((counts[target] + 1) / total) for target in targets)
    assert evaluation["unigram"]["loss"] == pytest.approx(nats / len(targets), abs=1e-5)
    size = evaluation["validation"]["scored_bytes"]
    assert evaluation["unigram"]["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, abs=1e-5)


def test_all_checkpoints_are_measured_on_the_same_windows(evaluate: Evaluate, short: Artifact, long: Artifact) -> None:
    both = evaluate([short, long], sequence_length=None, labels=["base", "grown"])
    evaluation = read_json(both.file("evaluation.json"))
    assert evaluation["validation"]["sequence_length"] == 96
    first, second = evaluation["checkpoints"]
    assert (first["label"], second["label"]) == ("base", "grown")
    assert (first["id"], second["id"]) == (short.id, long.id)
    assert first["validation"]["loss"] != second["validation"]["loss"]
    alone = read_json(evaluate([long], sequence_length=96).file("evaluation.json"))
    assert alone["checkpoints"][0]["validation"] == second["validation"]
    metrics = both.manifest.metrics
    assert metrics["checkpoints"][1]["validation_loss"] == second["validation"]["loss"]
    assert metrics["checkpoints"][1]["bits_per_byte"] == second["validation"]["bits_per_byte"]
    assert metrics["unigram_loss"] == evaluation["unigram"]["loss"]


def test_needles_beyond_context_or_text_are_skipped_with_the_reason(
    evaluate: Evaluate, short: Artifact, long: Artifact
) -> None:
    first, second = read_json(evaluate([short, long]).file("evaluation.json"))["checkpoints"]
    assert {cell["length"] for cell in first["needle"]["cells"]} == {90}
    assert {cell["length"] for cell in second["needle"]["cells"]} == {90, 160}
    assert [item["length"] for item in first["needle"]["skipped"]] == [160, 100_000]
    assert "holds 96 tokens" in first["needle"]["skipped"][0]["reason"]
    for cell in second["needle"]["cells"]:
        assert cell["trials"] == 2
        assert 1 <= cell["mean_rank"] <= 4
        assert cell["exact_match"] <= cell["top1"]
        assert cell["answer_logprob"] < 0


def test_samples_and_report(evaluate: Evaluate, short: Artifact) -> None:
    made = evaluate([short], labels=["my|base"])
    lines = [json.loads(line) for line in made.file("samples.jsonl").read_text().splitlines()]
    assert [line.get("mode", "skipped") for line in lines] == ["greedy", "sampled", "skipped"]
    assert "the context holds 96" in lines[2]["skipped"]
    assert all(line["id"] == short.id and line["tokens"] <= 6 for line in lines[:2])
    report = made.file("report.md").read_text()
    assert "my\\|base" in report
    assert "| unigram |" in report
    assert "Chance is 0.250" in report
    assert "holds 96 tokens" in report
    tables = [part.splitlines() for part in report.split("\n\n") if part.startswith("| checkpoint")]
    assert [head.split(" | ")[1] for head, *_ in tables] == ["loss", "id"], "the results are first"
    for head, _, *rows in tables:
        assert rows[0].startswith("| my\\|base |")
        assert {row.replace("\\|", "").count("|") for row in rows} == {head.count("|")}


def test_an_interrupted_run_resumes_and_gives_the_same_bytes(
    evaluate: Evaluate, short: Artifact, long: Artifact, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    loaded: list[Path] = []
    load, samples = run_module.load_engine, run_module.run_samples

    def load_counted(folder: Path, **options: Any) -> Any:
        loaded.append(folder)
        return load(folder, **options)

    def interrupted(*arguments: Any) -> Any:
        if len(loaded) == 2:
            raise InterruptedRunError("interrupted")
        return samples(*arguments)

    monkeypatch.setattr(run_module, "load_engine", load_counted)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "run_samples", interrupted)
        with pytest.raises(InterruptedRunError):
            evaluate([short, long])
    assert loaded == [short.path, long.path]
    resumed = evaluate([short, long])
    # The first checkpoint was finished; only the samples of the second were missing.
    assert loaded == [short.path, long.path, long.path]
    contents = {entry.path: entry.sha256 for entry in resumed.manifest.files}
    assert set(contents) == {"evaluation.json", "needle.svg", "report.md", "samples.jsonl"}
    session.store.remove(resumed)
    whole = evaluate([short, long])
    assert {entry.path: entry.sha256 for entry in whole.manifest.files} == contents


def test_unsuitable_checkpoints_are_refused(
    evaluate: Evaluate, short: Artifact, make_tokens: Any, run_stage: Any
) -> None:
    with pytest.raises(ConfigError, match="context of 96 tokens"):
        evaluate([short], sequence_length=97)
    with pytest.raises(ConfigError, match="2 names for 1 checkpoints"):
        evaluate([short], labels=["a", "b"])
    other = make_tokens("70ce500000000003", 300)
    with pytest.raises(InputError, match="another tokenizer"):
        run_stage("evaluate", CONFIG, {"checkpoints": [short], "tokens": other})


def test_invalid_configurations_are_refused() -> None:
    for values in ({"windows": 0}, {"needle": {"depths": [1.5]}}, {"samples": {"prompts": [""]}}, {"sequences": 3}):
        with pytest.raises(ValueError, match="validation error"):
            EvaluateConfig.model_validate(values)
