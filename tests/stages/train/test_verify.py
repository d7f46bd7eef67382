"""Verification of a training run by repeating it and comparing bitwise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import InputError, MissingArtifactError
from longcat.pipeline.runner import Session
from longcat.pipeline.store import Store
from longcat.stages.train import verify as module
from longcat.stages.train.verify import compare, verify_training


@pytest.fixture
def trained(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> Artifact:
    return run_stage("train", tiny | {"evaluation": {"every": 3, "windows": 2}}, {"tokens": tokens}, "base")


def change_loss(checkpoint: Artifact, step: int) -> None:
    """Change the last bit of the loss in the record of a step."""
    path = checkpoint.path / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[step - 1]["loss"] += 2e-16 * records[step - 1]["loss"] * 4
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_the_same_steps_in_the_same_schedule(session: Session, trained: Artifact) -> None:
    found = verify_training(session, trained, steps=5, twice=True)
    assert found.same
    assert [(item.what, item.steps) for item in found.comparisons] == [
        ("recorded and now", 5),
        ("now and again", 5),
    ]
    assert verify_training(session, trained, steps=100, twice=False).comparisons[0].steps == 8
    assert [artifact.id for artifact in session.store.artifacts()].count(trained.id) == 1


def test_a_rewarmed_schedule_is_repeated(
    session: Session, run_stage: Any, trained: Artifact, tokens: Artifact, tiny: dict[str, Any]
) -> None:
    onward = tiny | {"preset": None, "schedule": {"warmup_steps": 4}}
    second = run_stage("train", onward, {"tokens": tokens, "checkpoint": trained})
    assert verify_training(session, second, steps=3, twice=False).same


def test_names_the_first_step_and_field(session: Session, trained: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    change_loss(trained, 4)
    assert verify_training(session, trained, steps=3, twice=False).same
    found = verify_training(session, trained, steps=6, twice=True)
    assert [(item.result, item.field) for item in found.comparisons] == [("step 4", "loss"), ("same", None)]
    assert found.comparisons[0].first != found.comparisons[0].second
    agree = "two runs here agree, so the cause is listed above or not recorded"
    assert found.explanations == ["nothing recorded differs", agree]
    environment = trained.manifest.environment | {"torch": "0.1", "cores": "9000"}
    monkeypatch.setattr(module, "environment", lambda: environment)
    told = verify_training(session, trained, steps=6, twice=False).explanations
    assert told == [
        f"torch was {trained.manifest.environment['torch']}, is 0.1: another version may sum in another order"
    ]


def test_the_command_ends_with_the_code_for_integrity(
    store: Store, trained: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--store", str(store.root), "--quiet", "train", "verify", "base", "--steps", "4"]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["same"] is True
    change_loss(trained, 2)
    assert run([*arguments, "--json"]) == 5
    captured = capfd.readouterr()
    comparison = json.loads(captured.out)["comparisons"][0]
    assert (comparison["result"], comparison["field"]) == ("step 2", "loss")
    assert "loss first differs at step 2" in captured.err
    assert captured.err.count("\n") == 1


def test_a_continued_run_and_its_extension(
    session: Session, run_stage: Any, make_tokens: Any, tiny: dict[str, Any]
) -> None:
    tokens = make_tokens([*range(20, 100), 300, 400])
    first = run_stage("train", tiny, {"tokens": tokens})
    onward = tiny | {"preset": None, "steps": 4}
    second = run_stage("train", onward, {"tokens": tokens, "checkpoint": first})
    assert verify_training(session, second, steps=2, twice=False).same
    phases = [
        {"sequence_length": 64, "rope_theta": 5e6, "token_budget": 3 * 128, "batch_size": 2},
        {"sequence_length": 128, "rope_theta": 1e7, "steps": 3, "batch_size": 1},
    ]
    options = {key: tiny[key] for key in ("device", "threads", "evaluation")} | {"phases": phases}
    extended = run_stage("extend", options, {"tokens": tokens, "checkpoint": second})
    for steps in (2, 5):
        found = verify_training(session, extended, steps=steps, twice=False)
        assert found.same, found.summary
    change_loss(extended, 4)
    assert verify_training(session, extended, steps=5, twice=False).comparisons[0].result == "step 16"


def test_runs_that_cannot_be_verified(session: Session, run_stage: Any, tokens: Artifact, trained: Artifact) -> None:
    grown = run_stage("grow", {}, {"checkpoint": trained})
    with pytest.raises(InputError, match="was made by grow, not by train or extend"):
        verify_training(session, grown, steps=1, twice=False)
    session.store.remove(tokens)
    with pytest.raises(MissingArtifactError):
        verify_training(session, trained, steps=1, twice=False)


def test_a_field_that_only_one_run_has_differs() -> None:
    first, second = [{"step": 1, "a": [1, 2]}, {"step": 2}], [{"step": 1, "a": [1, 3]}, {"step": 2, "end": 1}]
    assert compare("x", first, second).second == 3
    assert compare("x", first[1:], second[1:]).result == "same"
    assert compare("x", [second[1], second[1]], [first[1], second[1]]).field == "end"
