"""The ablation of the demo's training: its settings are valid, and a row is trained for the given CPU seconds."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import build_config
from longcat.pipeline.tokens import TokenWriter
from longcat.stages.formats.architecture import preset_architecture
from longcat.stages.train.config import TrainConfig

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("demo_recipe", "tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import demo_recipe

    return demo_recipe


@pytest.fixture
def tokens(publish_artifact: Callable[..., Artifact]) -> Artifact:
    def fill(output: Path) -> None:
        generator = np.random.default_rng(0)
        for split, count in {"train": 60, "validation": 5}.items():
            with TokenWriter(output / split, 61) as writer:
                for _ in range(count):
                    writer.add_document(generator.integers(4, 61, size=50))
        vocabulary = {f"w{index}": index for index in range(61)}
        Tokenizer(models.WordLevel(vocabulary, unk_token="w0")).save(str(output / "tokenizer.json"))
        (output / "tokenizer_config.json").write_text("{}")

    return publish_artifact("70ce500000000001", "tokens", "data.pack", fill)


def test_every_row_is_a_valid_training(script: ModuleType) -> None:
    base, seen = script.recipe_settings(), set()
    for row in script.ROWS:
        config = build_config(TrainConfig, script.settings_of(row, 1, 10, base), where=row)
        model = preset_architecture(config.preset, config.model, 8192)
        config.kinds.check_fits(model)
        assert (config.steps, config.schedule.total_steps, config.seed) == (10, 10, 1)
        seen.add(config.model_dump_json())
    assert len(seen) >= len(script.ROWS) - 2  # a row may be what the recipe has now


def test_rows_change_what_they_say(script: ModuleType) -> None:
    base = {"kinds": {"embedding": {"learning_rate_factor": 7.0}}, "preset": "demo"}
    assert "kinds" not in script.settings_of("embedding at the rate of the others", 0, 5, base)
    found = script.settings_of("embedding: no decay", 0, 5, base)["kinds"]["embedding"]
    assert found == {"learning_rate_factor": 7.0, "weight_decay": 0.0}


def test_runs_of_two_rows_and_their_table(
    script: ModuleType, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    small = {"preset": "smoke", "sequence_length": 16, "batch_size": 2, "evaluation": {"windows": 2}}
    monkeypatch.setattr(script, "recipe_settings", lambda: small)
    monkeypatch.setattr(script, "seconds_per_step", lambda *_: 0.25)
    call = ["--output", str(tmp_path), "--tokens", str(tokens.path), "--seconds", "1", "--seeds", "2"]
    script.main([*call, "--rows", "recipe", "Muon"])
    report = json.loads((tmp_path / "demo_recipe.json").read_text())
    assert {row: [run["steps"] for run in runs] for row, runs in report["rows"].items()} == {
        "recipe": [4, 4],
        "Muon": [4, 4],
    }
    assert report["environment"]["processor"]
    table = (tmp_path / "demo_recipe.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n") == 4
    assert "in 2 of 2 seeds" in table or "in 1 of 2 seeds" in table or "in 0 of 2 seeds" in table
    before = (tmp_path / "runs.json").read_bytes()
    monkeypatch.setattr(script, "result_of", None)  # nothing is left to run
    script.main([*call, "--rows", "recipe", "Muon"])
    assert (tmp_path / "runs.json").read_bytes() == before


def test_rows_may_have_equally_many_steps(
    script: ModuleType, tokens: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"preset": "smoke", "sequence_length": 16, "batch_size": 2, "evaluation": {"windows": 2}}
    monkeypatch.setattr(script, "recipe_settings", lambda: small)
    monkeypatch.setattr(script, "seconds_per_step", None)  # is not measured
    call = ["--output", str(tmp_path), "--tokens", str(tokens.path), "--steps", "3", "--seeds", "1"]
    script.main([*call, "--rows", "recipe", "bfloat16"])
    report = json.loads((tmp_path / "demo_recipe.json").read_text())
    assert [runs[0]["steps"] for runs in report["rows"].values()] == [3, 3]
    losses = [runs[0]["validation_loss"] for runs in report["rows"].values()]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_the_time_of_a_step_is_measured(script: ModuleType, tokens: Artifact) -> None:
    small = {"preset": "smoke", "sequence_length": 16, "batch_size": 2}
    assert 1e-3 <= script.seconds_per_step("recipe", tokens, small) < 5
