"""Recipes: plans, reuse, effects of a change, errors with their location."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longcat.pipeline.config import parse_assignments
from longcat.pipeline.errors import ConfigError, LongcatError, MissingArtifactError, UsageError
from longcat.pipeline.recipe import Recipe, load_recipe, plan_recipe, run_steps, with_settings
from longcat.pipeline.runner import Session

TEXT = """
name: toy
prefix: t-
steps:
  docs: {stage: toy.write, config: {count: 2}}
  shouted: {stage: toy.upper, inputs: {documents: docs}}
  calm: {stage: toy.upper, config: {suffix: "."}, inputs: {documents: docs}}
  joined: {stage: toy.join, inputs: {parts: [shouted, calm]}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "toy.yaml").write_text(TEXT)
    return load_recipe(tmp_path / "toy.yaml")


def states(recipe: Recipe, session: Session) -> dict[str, str]:
    return {step.name: step.state for step in plan_recipe(recipe, session.store)}


def test_a_plan_runs_nothing_and_predicts_ids(recipe: Recipe, session: Session) -> None:
    steps = plan_recipe(recipe, session.store)
    assert not session.store.root.exists()
    outcomes = run_steps(steps, session)
    assert [o.artifact.id for o in outcomes] == [s.plan.id for s in steps]
    assert session.store.resolve("t-joined").manifest.counts == {"parts": 2}


def test_a_change_reruns_its_step_and_dependent_steps(recipe: Recipe, session: Session) -> None:
    run_steps(plan_recipe(recipe, session.store), session)
    assert set(states(recipe, session).values()) == {"cached"}
    changed = with_settings(recipe, parse_assignments(["calm.suffix=more"]))
    assert states(changed, session) == {"docs": "cached", "shouted": "cached", "calm": "missing", "joined": "missing"}


def test_from_and_until(recipe: Recipe, session: Session) -> None:
    with pytest.raises(UsageError, match="'docs', is not in the store"):
        plan_recipe(recipe, session.store, first="shouted")
    run_steps(plan_recipe(recipe, session.store, last="docs"), session)
    steps = plan_recipe(recipe, session.store, first="shouted", last="calm")
    assert [step.name for step in steps] == ["shouted", "calm"]
    with pytest.raises(UsageError, match="no step 'x'"):
        plan_recipe(recipe, session.store, first="x")
    with pytest.raises(UsageError, match="comes after"):
        plan_recipe(recipe, session.store, first="calm", last="docs")


def test_the_recipes_seed_reaches_only_stages_that_have_one(recipe: Recipe, session: Session) -> None:
    seeded = with_settings(recipe, {"seed": 7})
    before, after = plan_recipe(recipe, session.store), plan_recipe(seeded, session.store)
    assert after[0].plan.config.model_dump()["seed"] == 7
    assert before[0].plan.id != after[0].plan.id


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("name: x\nsteps: {}", ConfigError, "no steps"),
        ("name: x", ConfigError, "steps"),
        ("name: x\nstep: {}", ConfigError, "step"),
        ("- 1", ConfigError, "expected a mapping"),
        ("name: [", ConfigError, "not valid YAML"),
        ("name: x\nname: y\nsteps: {}", ConfigError, "duplicate key"),
        ("name: x\nsteps: {1a: {stage: toy.write}}", ConfigError, "invalid step name"),
        ("name: x\nsteps: {a: {stage: toy.wrte}}", ConfigError, "no stage 'toy.wrte'"),
        (
            "name: x\nsteps: {a: {stage: toy.write, config: {cuont: 1}}}",
            ConfigError,
            "steps.a.config: unknown key 'cuont'",
        ),
        ("name: x\nsteps: {a: {stage: toy.upper}}", ConfigError, "steps.a: toy.upper needs the input"),
        ("name: x\nsteps: {a: {stage: toy.upper, inputs: {documents: nope}}}", MissingArtifactError, "nope"),
        (
            "name: x\nsteps: {a: {stage: toy.upper, inputs: {documents: b}}, b: {stage: toy.write}}",
            ConfigError,
            "later step",
        ),
    ],
)
def test_errors_name_the_location(
    tmp_path: Path, session: Session, text: str, error: type[LongcatError], message: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(error) as caught:
        plan_recipe(load_recipe(path), session.store)
    assert message in str(caught.value)


def test_settings_for_an_unknown_step_suggest_the_nearest(recipe: Recipe) -> None:
    with pytest.raises(UsageError, match="did you mean 'shouted'"):
        with_settings(recipe, {"shoutd": {"suffix": "x"}})
    with pytest.raises(UsageError, match="expects key=value"):
        parse_assignments(["calm.suffix"])


def test_artifacts_made_by_another_version_are_named(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from longcat.cli.app import run
    from longcat.pipeline import environment

    path = tmp_path / "r.yaml"
    path.write_text("name: r\nsteps:\n  docs:\n    stage: toy.write\n")
    command = ["--store", str(session.store.root), "run", str(path)]
    assert run([*command, "-q"]) == 0
    capfd.readouterr()
    for extra in ([], ["--dry-run"]):
        assert run([*command, *extra]) == 0
        assert "made by" not in "".join(capfd.readouterr())
    monkeypatch.setattr(environment, "code_version", lambda: "99.0")
    assert run([*command, "--dry-run"]) == 0
    assert "docs is in the store, made by code " in capfd.readouterr().out
    assert run([*command, "--dry-run", "--json"]) == 0
    (step,) = json.loads(capfd.readouterr().out)["steps"]
    assert step["made_otherwise"]["code"]["here"] == "99.0"
    assert run(command) == 0
    assert "(here 99.0)" in capfd.readouterr().err
