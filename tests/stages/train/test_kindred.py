"""A run whose settings changed names the unfinished one, what differs, and the command that goes on from it."""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.kindred import kindred_runs
from longcat.pipeline.runner import Session, plan_named
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics

CHILD = Path(__file__).parent / "killed_run.py"


@pytest.fixture
def killed(interrupt: Any, tiny: dict[str, Any]) -> str:
    """Id of a run of 8 steps that ended after the save of step 6."""
    return str(interrupt(tiny))


def really_killed(store: Store, tokens: Artifact, config: dict[str, Any]) -> str:
    """Id of such a run, in a process that was killed with SIGKILL."""
    command = [sys.executable, str(CHILD), str(store.root), tokens.id, json.dumps(config), "7"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, env=environment, capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    (folder,) = store.root.glob(".staging/*/work")
    return folder.parent.name


def differences(session: Session, tokens: Artifact, config: dict[str, Any]) -> list[dict[str, Any]]:
    found = kindred_runs(session.store, plan_named(session, "train", config, {"tokens": tokens}, "again"))
    return [dict(item.differences) for item in found]


def test_what_differs(session: Session, killed: str, tokens: Artifact, tiny: dict[str, Any], make_tokens: Any) -> None:
    assert differences(session, tokens, tiny | {"learning_rate": 1e-3}) == [{"learning_rate": (3e-3, 1e-3)}]
    nested = tiny | {"schedule": {"kind": "cosine"}, "steps": 9}
    assert differences(session, tokens, nested) == [{"schedule.kind": ("wsd", "cosine"), "steps": (8, 9)}]
    # The run itself, and one with another model or other data.
    assert differences(session, tokens, tiny | {"micro_batch_size": 1, "keep_last": 9}) == []
    assert differences(session, tokens, tiny | {"model": {"num_layers": 2}}) == []
    assert differences(session, tokens, tiny | {"preset": "tiny"}) == []
    other = make_tokens([90] * 60, seed=3, identifier="70ce500000000002")
    assert differences(session, other, tiny | {"learning_rate": 1e-3}) == []
    with session.store.making(killed):  # a process is at work on it
        assert differences(session, tokens, tiny | {"learning_rate": 1e-3}) == []


def test_it_is_said_at_the_start(
    run_stage: Any, killed: str, tokens: Artifact, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run_stage("train", tiny | {"learning_rate": 1e-3, "batch_size": 2}, {"tokens": tokens})
    assert (
        f"an unfinished run of the same inputs is kept, train, step 6 of 8 ({killed}): "
        "learning_rate is 0.003 there and 0.001 here; batch_size is 4 there and 2 here"
    ) in caplog.text
    command = f"longcat train --resume-from {killed} --set learning_rate=0.001 --set batch_size=2"
    assert f"to go on from that one: {command}" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        run_stage("train", tiny | {"micro_batch_size": 2}, {"tokens": tokens})
    assert "resuming from step 6 of 8" in caplog.text
    assert "unfinished" not in caplog.text


def test_the_named_command_goes_on(
    store: Store,
    killed: str,
    tokens: Artifact,
    tiny: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text(json.dumps(tiny | {"learning_rate": 1e-3}))
    place = ["--store", str(store.root)]
    again = [*place, "train", "--tokens", tokens.id, "--config", str(settings), "--name", "low"]
    assert run([*again, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert f"train, step 6 of 8 ({killed}): learning_rate is 0.003 there and 0.001 here" in printed
    command = printed.partition("to go on from that one: ")[2].splitlines()[0]
    assert run([*again, "--dry-run", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    told = {"learning_rate": {"there": 3e-3, "here": 1e-3}}
    assert step["unfinished"] == [{"id": killed, "name": None, "step": 6, "differences": told, "command": command}]
    assert not list(store.root.glob("checkpoint/*"))
    program, *words = shlex.split(command)
    assert program == "longcat"
    assert run([*place, *words, "--dry-run", "--json"]) == 0
    save, plan = json.loads(capsys.readouterr().out)["steps"]
    assert (save["stage"], plan["stage"], plan["inputs"]["checkpoint"]) == ("train.publish", "train", [save["id"]])
    assert (save["state"], plan["state"]) == ("missing", "missing")
    assert run([*place, *words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["id"], made["name"], made["counts"]["steps"]) == (plan["id"], "low", 2)
    records = read_metrics(Path(made["path"]) / "metrics.jsonl")
    assert [record["step"] for record in records] == [7, 8]


def test_a_save_is_published_from_the_command_line(
    store: Store, killed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--store", str(store.root)]
    assert run([*place, "train", "publish", f"{killed[:7]}@3", "--dry-run", "--json"]) == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert run([*place, "train", "publish", f"{killed[:7]}@3", "--name", "early", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["id"], made["name"], made["stage"], made["counts"]["steps"]) == (
        step["id"],
        "early",
        "train.publish",
        3,
    )
    assert run([*place, "train", "publish", "early", "--name", "same"]) == 0
    assert "same@1" in capsys.readouterr().out
    assert store.resolve("same").id == made["id"]
    assert run([*place, "train", "publish", f"{killed}@4"]) == 3
    assert "its saves are those of steps 3, 6" in capsys.readouterr().err
    assert run([*place, "artifacts", "gc"]) == 0
    assert f"unfinished {killed}  train, step 6 of 8" in capsys.readouterr().out
