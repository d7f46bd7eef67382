"""Digests of the output of stages: every file of every artifact of a short chain, in one process and in several.

Needs a working folder. The chain is trained on text generated from a seed, so it does not depend on the machine.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import longcat.stages  # noqa: F401  registers the stages
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.runner import Session, run_stage
from longcat.pipeline.stage import registry
from longcat.pipeline.store import Store

TRAIN: Mapping[str, Any] = {
    "preset": "tiny",
    "threads": 1,
    "steps": 12,
    "sequence_length": 64,
    "batch_size": 4,
    "checkpoint_every": 5,
    "schedule": {"total_steps": 20},
}
RUNS: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "micro batches": {"micro_batch_size": 2},
    "multi-token prediction": {"model": {"num_nextn_predict_layers": 1}},
    "interleaved": {"model": {"moe_layout": "interleaved"}},
    "gating residual": {"model": {"gating_residual": True}},
    "context parallel": {"nproc_per_node": 2, "parallel": {"context": 2}},
    "expert parallel": {"nproc_per_node": 2, "parallel": {"expert": 2}},
    "pipeline": {"nproc_per_node": 2, "parallel": {"pipeline": 2}, "micro_batch_size": 2},
    "sharded": {"nproc_per_node": 2},
}
EXTEND: Mapping[str, Any] = {
    "threads": 1,
    "schedule": {"on_join": "restart"},
    "phases": [
        {"sequence_length": 96, "rope_theta": 5e6, "steps": 3, "batch_size": 2, "min_document_tokens": 32},
        {"sequence_length": 128, "rope_theta": 1e7, "steps": 2, "batch_size": 2, "min_document_tokens": 32},
    ],
}
# Contain times and versions, or plots whose style may change between commits.
LEFT_OUT = ("manifest.json", "log.jsonl", ".svg", ".md")


def chain_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (artifact: file, sha256) of the chain."""
    _write_texts(folder / "texts")
    session = Session(Store(folder / "store"), engine=LocalEngine(workers=1))

    def run(name: str, config: Mapping[str, Any], **inputs: Any) -> Artifact:
        return run_stage(session, name, config, inputs).artifact

    documents = run("data.extract", {"input": [str(folder / "texts")]})
    tokenizer = run("data.tokenizer", {"vocab_size": 512}, documents=documents.id)
    tokens = run("data.pack", {"validation_fraction": 0.1}, documents=documents.id, tokenizer=tokenizer.id)
    for role, artifact in {"documents": documents, "tokenizer": tokenizer, "tokens": tokens}.items():
        yield from _files(role, artifact)
    # Different seeds: the number of processes is not part of the id, so a stored run would be reused.
    for seed, (label, changes) in enumerate(RUNS.items(), start=1):
        yield from _files(label, run("train", {**TRAIN, **changes, "seed": seed}, tokens=tokens.id))
    base = run("train", TRAIN, tokens=tokens.id)
    grown = run("grow", {}, checkpoint=base.id)
    yield from _files("grown", grown)
    yield from _files("extended", run("extend", EXTEND, checkpoint=grown.id, tokens=tokens.id))
    check = next(name for name in ("train.coord-check", "train.coordinates") if name in registry.names())
    yield from _files(
        "coordinate check", run(check, {"preset": "tiny", "scales": [1, 2], "steps": 2}, tokens=tokens.id)
    )
    measure = {
        "sequence_length": 64,
        "windows": 4,
        "needle": {"lengths": [64], "trials": 1},
        "samples": {"max_tokens": 8},
    }
    yield from _files("evaluation", run("evaluate", measure, checkpoints=[base.id, grown.id], tokens=tokens.id))
    shutil.rmtree(folder)


def _files(role: str, artifact: Artifact) -> Iterator[tuple[str, str]]:
    for path in sorted(path for path in artifact.path.rglob("*") if path.is_file()):
        name = path.relative_to(artifact.path).as_posix()
        if not name.endswith(LEFT_OUT):
            name = name.replace("coordinates", "coord_check")  # its earlier name
            yield f"{role}: {name}", hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _write_texts(folder: Path) -> None:
    chance = random.Random(11)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(400)]
    folder.mkdir(parents=True)
    for number in range(60):
        sentences = [" ".join(chance.choices(words, k=chance.randint(5, 15))) + "." for _ in range(20)]
        (folder / f"{number:02}.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
