"""The recipe `long`, with other lengths: every step runs, and the evaluation goes beyond the first context."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from longcat.pipeline.files import read_json
from longcat.pipeline.recipe_file import load_recipe
from longcat.pipeline.store import Store
from longcat.stages.formats.key_values import Statement

RECIPE = Path(__file__).parents[2] / "stages" / "recipes" / "long.yaml"
LENGTHS = {"512": 96, "2k": 128, "8k": 192, "32k": 256, "128k": 320}
FACTS = ("least_facts=2", "facts=2", "documents=120")


def small() -> list[str]:
    """Settings of a run of seconds."""
    settings = ["repositories.modules=[longcat.pipeline]", "repositories.max_characters=60000", "facts.documents=800"]
    settings += ["base.steps=8", "base.sequence_length=64", "base.model.max_position_embeddings=64"]
    settings += ["base.schedule={decay_fraction: 0.4}"]
    for name, length in LENGTHS.items():
        extended = "extended" if name == "128k" else f"extended-{name}"
        settings += [f"facts-{name}.length={length}", *(f"facts-{name}.{fact}" for fact in FACTS)]
        settings += [f"tokens-facts-{name}.validation_fraction=0.1"]
        settings += [f"{extended}.phases=[{{sequence_length: {length}, rope_theta: 1e7, steps: 2, batch_size: 2}}]"]
    settings += ["evaluation.sequence_length=64", "evaluation.windows=4", "evaluation.recall.keys=1"]
    return [*settings, "evaluation.recall.lengths=[200, 320]", "evaluation.positions.length=320"]


@pytest.mark.slow
def test_every_step_runs(tmp_path: Path) -> None:
    options = [text for setting in small() for text in ("--set", setting)]
    command = [sys.executable, "-m", "longcat.cli", "--store", str(tmp_path), "--quiet", "run", "long", *options]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert finished.returncode == 0, finished.stderr
    evaluation = Store(tmp_path).resolve("long-evaluation")
    before, after = read_json(evaluation.file("evaluation.json"))["checkpoints"]
    assert (before["context"], after["context"]) == (64, 320)
    for result in (before, after):
        cells = result["recall"]["cells"]
        assert [cell["length"] for cell in cells] == [200] * 5 + [320] * 5
        assert [bucket["to"] for bucket in result["positions"]["buckets"]] == [256, 320]
    assert {path.name for path in evaluation.path.glob("*.svg")} == {"recall.svg", "positions.svg"}


def test_the_facts_that_are_trained_are_those_that_are_asked_for() -> None:
    from longcat.stages.data.key_values.config import KeyValuesConfig

    steps = load_recipe(RECIPE).steps
    recall = steps["evaluation"].config["recall"]
    trained = [KeyValuesConfig(**step.config) for step in steps.values() if step.stage == "data.key-values"]
    assert {facts.statement for facts in trained} == {Statement.of(recall["statement"]).template}
    assert {facts.words for facts in trained} == {recall["words"]}
    longest = [step.config["phases"][0]["sequence_length"] for step in steps.values() if step.stage == "extend"]
    assert longest == [facts.length for facts in trained[1:]] == [512, 2048, 8192, 32768, 131072]
