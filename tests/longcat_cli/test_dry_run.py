"""Errors in a configuration are found before the first stage runs, and a plan shows sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from longcat.cli.app import run
from longcat.cli.recipe_files import shipped_folder

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def demo() -> dict[str, Any]:
    """The shipped recipe demo, for modification."""
    found: dict[str, Any] = yaml.safe_load((shipped_folder() / "demo.yaml").read_text())
    for name in ("base", "grown-on"):
        found["steps"][name]["config"]["learning_rate"] = 2e-3
    return found


def planned(capfd: Capture, tmp_path: Path, recipe: dict[str, Any], *more: str) -> tuple[int, str, str]:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    code = run(["--store", str(tmp_path / "store"), "run", str(path), *more])
    captured = capfd.readouterr()
    assert not list((tmp_path / "store").glob("*/*")), "nothing was made"
    return code, captured.out, captured.err


@pytest.mark.parametrize("more", [("--dry-run",), ()], ids=["dry", "real"])
@pytest.mark.parametrize(
    ("step", "config", "message"),
    [
        ("base", {"preset": "tiney"}, "no preset 'tiney' (did you mean 'tiny'?)"),
        ("base", {"preset": None}, "preset is missing"),
        ("grown-on", {"preset": "demo"}, "a checkpoint defines its own"),
        ("base", {"token_budget": 1000}, "set either steps or token_budget"),
        ("base", {"steps": None}, "set either steps or token_budget"),
        ("base", {"model": {"num_layrs": 3}}, "num_layrs"),
        ("base", {"model": {"num_layers": "three"}}, "num_layers"),
        ("base", {"model": {"moe_topk": 500}}, "moe_topk = 500 exceeds"),
        ("base", {"model": {"vocab_size": 1024}}, "the tokenizer has 8192 tokens"),
        ("base", {"sequence_length": 2**20}, "exceeds the model's max_position_embeddings"),
        ("grown-on", {"sequence_length": 512}, "exceeds the model's max_position_embeddings = 256"),
        ("base", {"balance": {"target_active_experts": 99}}, "out of reach"),
        ("base", {"balance_loss": {"groups": 7}}, "must divide"),
        ("base", {"parallel": {"expert": 8}}, "expert = 8"),
        ("base", {"nproc_per_node": 3, "batch_size": 8}, "batch_size = 8 is not a multiple"),
        ("grown", {"factor": 0}, "greater than or equal to 1"),
        ("extended", {"phases": [{"sequence_length": 512, "rope_theta": 5e6}]}, "set either steps or token_budget"),
        ("extended", {"phases": []}, "phases"),
        ("extended", {"nproc_per_node": 3}, "is not a multiple"),
        ("evaluation", {"needle": {"lengths": [8192, 4096]}}, "4096 exceeds every checkpoint's context"),
        ("evaluation", {"labels": ["one"]}, "1 names for 4 checkpoints"),
        ("evaluation", {"sequence_length": 512}, "base has a context of 256"),
    ],
)
def test_an_impossible_plan_is_refused(
    capfd: Capture,
    tmp_path: Path,
    demo: dict[str, Any],
    step: str,
    config: dict[str, Any],
    message: str,
    more: tuple[str, ...],
) -> None:
    demo["steps"][step].setdefault("config", {}).update(config)
    code, out, err = planned(capfd, tmp_path, demo, *more)
    assert (code, out) == (3, "")
    assert message in err
    assert f"steps.{step}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("data extract", 2, "pass a PATH"),
        ("data train-quality", 3, "a classifier needs positive"),
    ],
)
def test_a_single_stage_is_checked_in_the_same_way(
    capfd: Capture, tmp_path: Path, arguments: str, code: int, message: str
) -> None:
    assert run(["--store", str(tmp_path / "store"), *arguments.split(), "--dry-run"]) == code
    assert message in capfd.readouterr().err


def test_size_length_and_memory_are_shown(capfd: Capture, tmp_path: Path) -> None:
    store = ["--store", str(tmp_path / "store")]
    assert run([*store, "run", "demo", "--dry-run", "--json"]) == 0
    steps = {step["step"]: step["forecast"] for step in json.loads(capfd.readouterr().out)["steps"]}
    assert steps["crawl"] == {}
    assert steps["tokenizer"] == {"vocab_size": 8192}
    base, grown = steps["base"], steps["grown"]
    assert (base["steps"], base["tokens"], base["context"]) == (400, 400 * 8 * 256, 256)
    # float32 weights and two moments, and the larger of gradients and activations: here those of 8 x 256 tokens.
    assert base["memory_bytes"] > 16 * base["parameters"]
    lean = "base.micro_batch_size=1"
    assert run([*store, "run", "demo", "--dry-run", "--json", "--set", lean]) == 0
    small = {step["step"]: step["forecast"] for step in json.loads(capfd.readouterr().out)["steps"]}["base"]
    assert 16 * base["parameters"] <= small["memory_bytes"] < base["memory_bytes"]
    assert base["activated_parameters"] < base["parameters"] < grown["parameters"] == steps["extended"]["parameters"]
    assert (steps["extended"]["steps"], steps["extended"]["context"]) == (36, 1024)
    longer = "evaluation.needle.lengths=[256, 2048]"
    assert run([*store, "run", "demo", "--dry-run", "--json", "--set", longer]) == 0
    *_, evaluation = json.loads(capfd.readouterr().out)["steps"]
    assert evaluation["forecast"] == {"needle_lengths_skipped": 1}
    assert run([*store, "run", "demo", "--dry-run"]) == 0
    assert f"{base['parameters']:,}" in capfd.readouterr().out
    assert not (tmp_path / "store").exists()


def test_memory_of_several_processes_is_that_of_one_of_them(
    capfd: Capture, tmp_path: Path, demo: dict[str, Any]
) -> None:
    def memory(**config: object) -> tuple[int, int]:
        demo["steps"]["base"]["config"] |= {"dtype": "float32", "device": "cpu", **config}
        code, out, _ = planned(capfd, tmp_path, demo, "--until", "base", "--dry-run", "--json")
        assert code == 0
        forecast = json.loads(out)["steps"][-1]["forecast"]
        return forecast["memory_bytes"], forecast["parameters"]

    four, parameters = memory(nproc_per_node=4)
    eight, _ = memory(nproc_per_node=8)
    # Every process holds a share of weights, gradients and moments, and of the batch; what it gathers is the same.
    assert eight + 16 * parameters // 8 < four < 16 * parameters // 4 + 3 * (16 * parameters)
    experts, _ = memory(nproc_per_node=8, parallel={"expert": 2})
    assert experts != eight


@pytest.mark.parametrize("stage", ["train.sweep", "train.coord-check"])
def test_an_unknown_preset_is_refused_by_every_stage_that_trains(
    capfd: Capture, tmp_path: Path, demo: dict[str, Any], stage: str
) -> None:
    config = {"preset": "tiney"} | ({"steps": 2} if stage == "train.sweep" else {})
    demo["steps"]["tried"] = {"stage": stage, "inputs": {"tokens": "tokens"}, "config": config}
    code, out, err = planned(capfd, tmp_path, demo, "--dry-run")
    assert (code, out) == (3, "")
    assert "no preset 'tiney' (did you mean 'tiny'?)" in err


def test_a_plan_does_not_import_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nimport longcat.stages\nfrom longcat.pipeline.store import Store\n"
        "from longcat.pipeline.recipe import load_recipe, plan_recipe\n"
        "from longcat.cli.recipe_files import find_recipe\n"
        f"plan_recipe(load_recipe(find_recipe('demo')), Store(Path({str(tmp_path)!r})))\n"
        "sys.exit(1 if {'torch', 'numpy'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
