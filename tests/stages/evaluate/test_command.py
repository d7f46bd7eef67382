"""`longcat eval` and its subcommands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.cli import eval_report
from longcat.cli.app import run
from longcat.cli.terminal import PlainConsole
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.store import Store
from longcat.stages.evaluate.compare import compare

QUICK = ("--set", "windows=3", "--set", "samples.prompts=[Hello]", "--set", "samples.max_tokens=2")
QUICK += ("--set", "needle.trials=1", "--set", "needle.candidates=4", "--device", "cpu", "--threads", "1")


@pytest.fixture
def longcat(capfd: pytest.CaptureFixture[str], store: Store) -> Any:
    def call(*arguments: str, code: int = 0) -> tuple[str, str]:
        found = run(["--store", str(store.root), *arguments])
        captured = capfd.readouterr()
        assert found == code, captured.err
        return captured.out, captured.err

    return call


@pytest.fixture
def named(store: Store, tokens: Artifact, short: Artifact, long: Artifact) -> None:
    for name, artifact in (("tokens", tokens), ("base", short), ("extended", long)):
        store.refs.publish(name, artifact.id, artifact.kind, "2025-01-31T08:15:42Z")


def evaluate(*checkpoints: str, lengths: str = "[90]", name: str = "ev") -> list[str]:
    given = [word for checkpoint in checkpoints for word in ("--checkpoint", checkpoint)]
    return ["eval", *given, "--tokens", "tokens", *QUICK, "--set", f"needle.lengths={lengths}", "--name", name]


def words(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.mark.usefixtures("named")
def test_checkpoints_have_their_given_names_and_results_are_first(longcat: Any, store: Store, short: Artifact) -> None:
    out, err = longcat(*evaluate("base", "extended@1", short.id[:8]))
    metrics = store.resolve("ev").manifest.metrics
    assert [found["label"] for found in metrics["checkpoints"]] == ["base", "extended@1", short.id[:8]]
    head, *rows = out.splitlines()[1:6]
    assert head.split("  ")[0] == "checkpoint"
    assert [row.split()[0] for row in rows[:3]] == ["base", "extended@1", short.id[:8]]
    first = metrics["checkpoints"][0]
    assert rows[0].split()[1:3] == [f"{first['validation_loss']:.4f}", f"{first['bits_per_byte']:.4f}"]
    assert rows[3].startswith("baseline: unigram, chance")
    assert rows[3].split()[-1] == "0.2500"
    assert "needle accuracy" in head
    assert "0.needle_seconds" not in out
    assert "None" not in out
    assert err.count("base: loss") == 1
    speed = store.resolve("ev").manifest.performance["checkpoints"]
    assert [row["label"] for row in speed] == ["base", "extended@1", short.id[:8]]
    assert all(row["loss_seconds"] >= 0 and row["loss_tokens_per_second"] > 0 for row in speed)


@pytest.mark.usefixtures("named")
def test_given_labels_are_used(longcat: Any, store: Store) -> None:
    longcat(*evaluate("base"), "--labels", "mine")
    assert store.resolve("ev").manifest.metrics["checkpoints"][0]["label"] == "mine"


@pytest.mark.usefixtures("named")
def test_without_needles_they_are_not_in_the_output(longcat: Any, store: Store) -> None:
    out, _ = longcat(*evaluate("base", lengths="[]"))
    assert "needle" not in out.rpartition("/store/")[0].replace(str(store.root.parent), "")
    assert "None" not in out
    assert "needle_top1" not in store.resolve("ev").manifest.metrics["checkpoints"][0]
    assert "Needle" not in longcat("eval", "show", "ev")[0]


@pytest.mark.usefixtures("named")
def test_a_recipe_uses_names_of_steps_and_ends_with_the_results(longcat: Any, store: Store, tmp_path: Path) -> None:
    recipe = tmp_path / "chain.yaml"
    config = "{windows: 3, needle: {lengths: []}, samples: {prompts: []}, device: cpu, threads: 1}"
    recipe.write_text(
        "name: chain\nsteps:\n  evaluation:\n    stage: evaluate\n"
        f"    inputs: {{checkpoints: [base, extended], tokens: tokens}}\n    config: {config}\n"
    )
    out, _ = longcat("run", str(recipe))
    first, second = store.resolve("evaluation").manifest.metrics["checkpoints"]
    assert (first["label"], second["label"]) == ("base", "extended")
    listed = next(line for line in out.splitlines() if line.startswith("evaluation@1"))
    losses = [f"{found['validation_loss']:.4f}" for found in (first, second)]
    assert f"loss base {losses[0]}, extended {losses[1]}" in listed
    assert ["base", losses[0], f"{first['bits_per_byte']:.4f}"] in [row[:3] for row in words(out)]
    assert any(row[:2] == ["baseline:", "unigram"] for row in words(out))


@pytest.mark.usefixtures("named")
def test_the_report_is_shown(longcat: Any, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    longcat(*evaluate("base", "extended"))
    made = store.resolve("ev")
    out, _ = longcat("eval", "show", "ev")
    assert out == made.file("report.md").read_text()
    found = json.loads(longcat("eval", "show", "ev", "--json")[0])
    assert (found["id"], found["names"]) == (made.id, ["ev@1"])
    assert found["checkpoints"] == json.loads(made.file("evaluation.json").read_text())["checkpoints"]
    console = PlainConsole(width=100, force_terminal=True, color_system=None)
    monkeypatch.setattr(eval_report, "out", lambda: console)
    with console.capture() as capture:
        eval_report.print_report(out)
    shown = capture.get()
    assert "| ---" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    loss = f"{found['checkpoints'][1]['validation']['bits_per_byte']:.4f}"
    assert any(row[0] == "extended" and loss in row for row in words(shown) if row)


def test_heat_maps_on_a_terminal_with_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [{"length": length, "depth": 0.5, "recalled": share} for length, share in ((512, 1.0), (1024, 0.25))]
    evaluation = {"checkpoints": [{"label": "base", "recall": {"cells": cells}}]}
    found = {}
    for system in ("truecolor", None):
        console = PlainConsole(width=100, force_terminal=True, color_system=system, no_color=system is None)
        monkeypatch.setattr(eval_report, "out", lambda console=console: console)
        with console.capture() as capture:
            eval_report.print_heat_maps(evaluation)
        found[system] = capture.get()
    assert found[None] == ""
    shown = found["truecolor"]
    assert "base: facts recalled" in shown
    assert words(shown)[2] == ["depth", "512", "1,024", "tokens"]
    # Dark blue behind a white 1.00, light blue behind a black 0.25.
    assert "38;2;255;255;255;48;2;8;48;107m    1.00" in shown
    assert "38;2;0;0;0;48;2;187;200;218m    0.25" in shown


@pytest.mark.usefixtures("named")
def test_evaluations_side_by_side(longcat: Any, store: Store) -> None:
    longcat(*evaluate("base", lengths="[90, 94]", name="first"))
    longcat(*evaluate("extended", "base", lengths="[90]", name="second"))
    out, err = longcat("eval", "compare", "first", "second")
    head, *rows = out.splitlines()
    assert head.split("  ")[0] == "metric"
    assert "base of first" in head
    assert "extended" in head
    found = json.loads(longcat("eval", "compare", "first", "second", "--json")[0])
    assert [column["label"] for column in found["checkpoints"]] == ["base of first", "extended", "base of second"]
    metrics = {row["metric"]: row for row in found["metrics"]}
    loss = metrics["loss"]
    assert loss["differences"][0] is None
    assert loss["differences"][1] == pytest.approx(loss["values"][1] - loss["values"][0], abs=1e-6)
    assert loss["differences"][2] == 0
    assert metrics["needle accuracy, length 94"]["values"][1] is None
    assert [row["metric"] for row in found["metrics"]][4:7] == [
        "needle accuracy",
        "needle accuracy, length 90",
        "needle accuracy, length 94",
    ]
    line = next(row for row in rows if row.startswith("bits per byte"))
    assert line.split()[3] == f"{metrics['bits per byte']['values'][0]:.4f}"
    assert line.split()[5] == f"{metrics['bits per byte']['differences'][1]:+.4f}"
    assert "different needles" in err
    assert found["notes"] == [err.strip()]
    both = compare([(name, store.resolve(name)) for name in ("second", "second")])
    assert both.notes == []


@pytest.mark.usefixtures("named")
def test_a_difference_of_evaluations_is_readable(longcat: Any) -> None:
    longcat(*evaluate("base", name="first"))
    longcat(*evaluate("base", "extended", name="second"))
    out, _ = longcat("artifacts", "diff", "first", "second")
    for notation in ("{", "}", "['", "None", "True"):
        assert notation not in out
    rows = words(out)
    assert ["config", "labels", "base", "base,", "extended"] in rows
    assert any(row[:2] == ["metrics", "checkpoints.extended.validation_loss"] for row in rows)
    assert not any(row[1] == "checkpoints.base.validation_loss" for row in rows if len(row) > 1)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("show", "base"), 2, "is not an evaluation (see `longcat artifacts list --kind evaluation`)"),
        (("compare", "ev", "nobody"), 4, "nobody"),
        (("show",), 2, "Missing argument"),
    ],
)
@pytest.mark.usefixtures("named")
def test_an_artifact_that_is_not_an_evaluation_is_one_line(
    longcat: Any, arguments: tuple[str, ...], code: int, message: str
) -> None:
    longcat(*evaluate("base", lengths="[]"))
    out, err = longcat("eval", *arguments, code=code)
    assert out == ""
    assert message in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("named")
def test_a_damaged_evaluation_is_an_error(longcat: Any, store: Store) -> None:
    longcat(*evaluate("base", lengths="[]"))
    store.resolve("ev").file("evaluation.json").write_text('{"checkpoints": []}')
    assert "evaluation.json: not an evaluation" in longcat("eval", "compare", "ev", code=5)[1]


def test_the_subcommands_are_in_the_help(longcat: Any) -> None:
    out, _ = longcat("eval", "--help")
    assert "longcat eval show" in out
    assert "longcat eval compare" in out
    assert "longcat eval show evaluation" in longcat("eval", "show", "--help")[0]


def test_the_inputs_may_be_folders_of_another_store(
    tmp_path: Path, tokens: Artifact, short: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(short.path), "--tokens", str(tokens.path), *QUICK, "--set", "needle.lengths=[90]"]
    assert run(["--quiet", "--store", str(tmp_path / "other"), "eval", *given]) == 0, capfd.readouterr().err
    (made,) = Store(tmp_path / "other").artifacts()
    assert [item.id for item in made.manifest.inputs["checkpoints"]] == [short.id]
    assert [item.id for item in made.manifest.inputs["tokens"]] == [tokens.id]
