"""Stage `train.sweep`."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

import longcat.stages.train.run
from longcat.cli.app import run as main
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.engine import LocalEngine
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.files import read_json
from longcat.pipeline.runner import Session
from longcat.pipeline.runner import run_stage as run
from longcat.pipeline.store import Store
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.sweep.grid import SweepConfig, grid_points

GRID = ["learning_rate=1e-3,1e-2,1e30", "initial_std=0.01,0.04", "optimizer.beta2=0.9"]


@pytest.fixture
def sweep(tiny: dict[str, Any]) -> dict[str, Any]:
    return tiny | {"steps": 4, "grid": [entry.replace("initial_std", "model.initializer_range") for entry in GRID]}


def test_every_combination_is_a_point() -> None:
    points = grid_points(SweepConfig(steps=1, grid=("a.b=1,2", "c=x,null")))
    assert points == [{"a.b": 1, "c": "x"}, {"a.b": 1, "c": None}, {"a.b": 2, "c": "x"}, {"a.b": 2, "c": None}]


def test_one_key_after_the_other_goes_on_from_the_best_value(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], run_apart: Any, contents: Callable[[Artifact], Any]
) -> None:
    """Two, three and two values are 1 + 1 + 2 + 1 points; the first value of the first key diverges."""
    grid = ["learning_rate=1e30,1e-2", "kinds.router.learning_rate_factor=1e-9,1,4", "seed=0,1"]
    config = tiny | {"steps": 4, "grid": grid, "search": "one_by_one"}
    report = run_stage("train.sweep", config, {"tokens": tokens})
    points = report.manifest.metrics["points"]
    keys = ("learning_rate", "kinds.router.learning_rate_factor", "seed")
    found = [tuple(point[key] for key in keys) for point in points]
    assert found[:4] == [(1e30, 1e-9, 0), (1e-2, 1e-9, 0), (1e-2, 1, 0), (1e-2, 4, 0)]
    best = min(points[1:4], key=lambda point: point["loss"])
    assert found[4:] == [(1e-2, best[keys[1]], 1)]
    last = min((best, points[4]), key=lambda point: point["loss"])
    assert report.manifest.metrics["best"]["loss"] == last["loss"]
    assert len(grid_points(SweepConfig(steps=1, grid=tuple(grid), search="one_by_one"))) == len(points)
    assert read_json(report.file("proxy.json"))["config"]["kinds"]["router"]["learning_rate_factor"] == best[keys[1]]
    assert contents(run_apart("train.sweep", config, {"tokens": tokens})) == contents(report)


def test_points_equal_separate_trainings(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], sweep: dict[str, Any]
) -> None:
    report = run_stage("train.sweep", sweep, {"tokens": tokens})
    found = read_json(report.file("sweep.json"))
    rows = {(row["learning_rate"], row["model.initializer_range"]): row for row in found["points"]}
    assert len(rows) == 6
    alone = tiny | {"steps": 4, "learning_rate": 1e-2, "model": {"initializer_range": 0.04}}
    trained = run_stage("train", alone | {"optimizer": {"beta2": 0.9}}, {"tokens": tokens})
    assert rows[1e-2, 0.04]["loss"] == trained.manifest.metrics["validation_loss"]
    assert [rows[1e30, std]["diverged"] for std in (0.01, 0.04)] == [True, True]
    assert "at step" in rows[1e30, 0.01]["note"]
    assert report.manifest.counts == {"points": 6, "diverged": 2}
    best = min((row for row in found["points"] if row["loss"] is not None), key=lambda row: row["loss"])
    assert found["best"] == best
    assert report.manifest.metrics["best"]["learning_rate"] == best["learning_rate"] == 1e-2
    root = ET.fromstring(report.file("loss.svg").read_text())  # noqa: S314 - our own file
    tags = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert (tags.count("circle"), tags.count("polyline")) == (4, 2)


def test_the_best_point_can_be_used_as_a_proxy(
    run_stage: Any, tokens: Artifact, tiny: dict[str, Any], sweep: Any
) -> None:
    report = run_stage("train.sweep", sweep, {"tokens": tokens})
    del tiny["learning_rate"]
    trained = run_stage("train", tiny | {"steps": 1}, {"tokens": tokens, "proxy": report})
    config, best = read_state(trained).config, report.manifest.metrics["best"]
    assert config["learning_rate"] == best["learning_rate"]
    assert config["model"]["initializer_range"] == best["model.initializer_range"]
    assert trained.manifest.metrics["transfer"]["proxy"] == report.id


def test_a_sweep_that_only_diverges_cannot_be_used_as_a_proxy(
    run_stage: Any, tokens: Artifact, tiny: Any, sweep: Any
) -> None:
    report = run_stage("train.sweep", sweep | {"grid": ["learning_rate=1e30,1e31"]}, {"tokens": tokens})
    assert report.manifest.metrics["best"] is None
    with pytest.raises(ConfigError, match=r"every point of the sweep .* diverged"):
        run_stage("train", tiny, {"tokens": tokens, "proxy": report})


def test_a_killed_sweep_does_not_repeat_points(
    store: Store,
    run_stage: Any,
    tokens: Artifact,
    sweep: dict[str, Any],
    contents: Callable[[Artifact], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    undisturbed = run_stage("train.sweep", sweep, {"tokens": tokens})
    expected = contents(undisturbed), undisturbed.manifest.metrics
    store.remove(undisturbed)
    original, calls = longcat.stages.train.run.train_checkpoint, [0]

    class PowerFailureError(Exception):
        pass

    def counted(context: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise PowerFailureError
        return original(context)

    monkeypatch.setattr(longcat.stages.train.run, "train_checkpoint", counted)
    with pytest.raises(PowerFailureError):
        run_stage("train.sweep", sweep, {"tokens": tokens})
    again = run_stage("train.sweep", sweep, {"tokens": tokens})
    assert calls[0] == 3 + 4
    assert (contents(again), again.manifest.metrics) == expected


def test_workers_do_not_change_the_bytes(
    store: Store, session: Session, tokens: Artifact, sweep: dict[str, Any], contents: Callable[[Artifact], Any]
) -> None:
    two = sweep | {"grid": ["learning_rate=1e-3,1e-2"]}
    alone = run(session, "train.sweep", two, {"tokens": tokens}).artifact
    expected = contents(alone)
    store.remove(alone)
    together = run(Session(store, engine=LocalEngine(workers=2)), "train.sweep", two, {"tokens": tokens}).artifact
    assert contents(together) == expected


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["learning_rate="], "needs values that differ"),
        (["learning_rate=1e-3,1e-3"], "needs values that differ"),
        (["seed=1,2", "seed=3"], "seed is duplicated"),
        (["learning_rat=1e-3"], "did you mean 'learning_rate'"),
        (["model.num_layers=0"], "num_layers = 0"),
    ],
)
def test_a_wrong_grid_is_an_error_before_the_first_point(
    run_stage: Any, tokens: Artifact, sweep: dict[str, Any], grid: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_stage("train.sweep", sweep | {"grid": grid}, {"tokens": tokens})


def test_dry_run_shows_the_grid(store: Store, tokens: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tokens", tokens.id, "--preset", "smoke", "--steps", "1", "--grid", "learning_rate=1e-3,2e-3"]
    command = ["--store", str(store.root), "train", "sweep", *arguments, "--grid", "seed=0,1", "--dry-run"]
    assert main([*command, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["grid"] == [{"learning_rate": rate, "seed": seed} for rate in (1e-3, 2e-3) for seed in (0, 1)]
    assert main(command) == 0
    assert capfd.readouterr().out.count("0.002") == 2
    assert [artifact.kind for artifact in store.artifacts()] == ["tokens"]
