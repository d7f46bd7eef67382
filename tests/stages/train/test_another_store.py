"""Every command takes an input by its folder, also one of another store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.store import Store

PHASES = [{"sequence_length": 64, "rope_theta": 5e6, "steps": 1, "batch_size": 2, "min_document_tokens": 20}]
RUNS: dict[str, tuple[list[str], str]] = {
    "train": (["train", "--preset", "smoke", "--steps", "1", "--sequence-length", "32", "--batch-size", "2"], "t"),
    "onward": (["train", "--steps", "1", "--sequence-length", "32", "--batch-size", "2"], "ct"),
    "transfer": (["train", "--preset", "smoke", "--steps", "1", "--sequence-length", "32", "--batch-size", "2"], "tp"),
    "extend": (["extend", "--set", f"phases={json.dumps(PHASES)}"], "ct"),
    "grow": (["grow"], "c"),
    "quantize": (["quantize", "--set", "windows=2", "--set", "sequence_length=32"], "ct"),
}
OPTIONS = {"c": "--checkpoint", "t": "--tokens", "p": "--transfer-from"}


@pytest.mark.parametrize("case", RUNS)
def test_inputs_may_be_folders_of_another_store(
    case: str,
    run_stage: Any,
    tokens: Artifact,
    tiny: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    base = run_stage("train", tiny | {"steps": 1}, {"tokens": tokens})
    words, roles = RUNS[case]
    inputs = {"c": base, "t": tokens, "p": base}
    place = ["--quiet", "--store", str(tmp_path / "other")]
    options = OPTIONS | ({"c": ""} if words[0] in ("grow", "quantize") else {})
    command = [*place, *words]
    for role in roles:
        command += [word for word in (options[role], str(inputs[role].path)) if word]
    assert run([*command, "--json"]) == 0, capfd.readouterr().err
    capfd.readouterr()
    here = Store(tmp_path / "other")
    (made,) = here.artifacts()
    recorded = {item.id for items in made.manifest.inputs.values() for item in items}
    assert recorded == {inputs[role].id for role in roles}
    assert made.damage() == []
    # An id of the other store is unknown here, and the error says where it was looked for.
    assert run([*command[:-1], inputs[roles[-1]].id]) != 0
    assert f"no artifact '{inputs[roles[-1]].id}' in {here.root}" in capfd.readouterr().err
