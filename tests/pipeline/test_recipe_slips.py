"""Mistakes in a recipe are reported with file, line, step, key and the likely intended name."""

from __future__ import annotations

from pathlib import Path

import pytest

from longcat.pipeline.config import parse_assignments
from longcat.pipeline.errors import ConfigError, LongcatError, MissingArtifactError, UsageError
from longcat.pipeline.recipe import load_recipe, plan_recipe, run_steps, with_settings
from longcat.pipeline.runner import Session

GOOD = """name: slips
steps:
  docs:
    stage: toy.write
    config: {count: 2}
  shouted:
    stage: toy.upper
    inputs:
      documents: docs
    config:
      suffix: "!"
  joined:
    stage: toy.join
    inputs: {parts: [docs, shouted]}
"""


def slip(tmp_path: Path, session: Session, old: str, new: str, *settings: str) -> LongcatError:
    """Error of the valid recipe with one replacement."""
    path = tmp_path / "mine.yaml"
    assert GOOD.count(old) == 1
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(LongcatError) as caught:
        recipe = with_settings(load_recipe(path, "mine.yaml"), parse_assignments(settings))
        plan_recipe(recipe, session.store)
    return caught.value


@pytest.mark.parametrize(
    ("old", "new", "error", "where", "what", "hint"),
    [
        ("steps:", "step:", ConfigError, "mine.yaml:2", "unknown key 'step'", "did you mean 'steps'?"),
        (
            "    stage: toy.write\n",
            "    stge: toy.write\n",
            ConfigError,
            "mine.yaml:4",
            "unknown key 'steps.docs.stge'",
            "'stage'",
        ),
        (
            "toy.write",
            "toy.wrte",
            ConfigError,
            "mine.yaml:4: steps.docs",
            "no stage 'toy.wrte'",
            "did you mean 'toy.write'?",
        ),
        (
            "count: 2",
            "cuont: 2",
            ConfigError,
            "mine.yaml:5: steps.docs.config",
            "unknown key 'cuont', did you mean 'count'?",
            "",
        ),
        ('suffix: "!"', "suffix: [1]", ConfigError, "mine.yaml:11: steps.shouted.config", "'suffix'", ""),
        (
            "documents: docs",
            "documnts: docs",
            ConfigError,
            "mine.yaml:9: steps.shouted.inputs",
            "no input 'documnts'",
            "'documents'",
        ),
        (
            "documents: docs",
            "documents: dcos",
            MissingArtifactError,
            "mine.yaml:9: steps.shouted.inputs.documents",
            "'dcos' is neither an earlier step nor an artifact",
            "did you mean 'docs'?",
        ),
        (
            "documents: docs",
            "documents: joined",
            ConfigError,
            "mine.yaml:9: steps.shouted.inputs.documents",
            "a later step",
            "earlier",
        ),
        (
            "documents: docs",
            "documents: shouted",
            ConfigError,
            "mine.yaml:9: steps.shouted.inputs.documents",
            "the step itself",
            "earlier",
        ),
        (
            "documents: docs",
            "documents: true",
            ConfigError,
            "mine.yaml:9",
            "'steps.shouted.inputs.documents': expected a list, found True",
            "",
        ),
        (
            "    inputs: {parts: [docs, shouted]}\n",
            "",
            ConfigError,
            "mine.yaml:12: steps.joined",
            "needs the input 'parts'",
            "",
        ),
        (
            "config: {count: 2}",
            "config: 2",
            ConfigError,
            "mine.yaml:5",
            "'steps.docs.config': expected a mapping, found 2",
            "",
        ),
        ("  docs:\n", "  1docs:\n", ConfigError, "mine.yaml:3: steps", "invalid step name '1docs'", ""),
        ("name: slips\n", "", ConfigError, "mine.yaml", "'name' is required", ""),
    ],
)
def test_location_and_fix_are_named(
    tmp_path: Path,
    session: Session,
    old: str,
    new: str,
    error: type[LongcatError],
    where: str,
    what: str,
    hint: str,
) -> None:
    found = slip(tmp_path, session, old, new)
    assert type(found) is error
    assert found.where == where
    assert what in found.what
    assert hint in (found.hint or "")


def test_a_string_where_a_list_is_needed(tmp_path: Path, session: Session) -> None:
    found = slip(
        tmp_path, session, "stage: toy.write\n    config: {count: 2}", "stage: data.extract\n    config: {input: mix/}"
    )
    assert found.where == "mine.yaml:5: steps.docs.config"
    assert found.what == "'input': expected a list (found 'mix/')"


def test_a_missing_path_is_named_in_full(tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = slip(
        tmp_path,
        session,
        "stage: toy.write\n    config: {count: 2}",
        "stage: data.extract\n    config: {input: [mix/]}",
    )
    assert found.where == f"mine.yaml:5: steps.docs.config: {tmp_path}/mix"
    assert found.exit_code == 3


@pytest.mark.parametrize(
    ("assignment", "where", "what", "hint"),
    [
        ("strict.count=1", "mine.yaml", "--set strict: the recipe has no such step", "steps: docs"),
        ("dosc.count=1", "mine.yaml", "no such step", "did you mean 'docs'?"),
        ("docs=1", "mine.yaml", "the key is missing", "--set docs.KEY=VALUE"),
        ("seed=many", "mine.yaml", "expected a whole number", ""),
        ("docs.cuont=1", "mine.yaml: --set docs.cuont: steps.docs.config", "did you mean 'count'?", ""),
        ("docs.count=x", "mine.yaml: --set docs.count: steps.docs.config", "'count'", ""),
    ],
)
def test_errors_in_set_options_name_the_option(
    tmp_path: Path, session: Session, assignment: str, where: str, what: str, hint: str
) -> None:
    found = slip(tmp_path, session, "count: 2", "count: 2", assignment)
    assert found.where == where
    assert what in found.what
    assert hint in (found.hint or "")


def test_names_of_first_and_last_step_are_suggested(tmp_path: Path, session: Session) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    with pytest.raises(UsageError, match=r"mine.yaml: the recipe has no step 'shoutd' \(did you mean 'shouted'\?\)"):
        plan_recipe(load_recipe(tmp_path / "mine.yaml", "mine.yaml"), session.store, first="shoutd")


def test_a_step_that_fails_is_named(tmp_path: Path, session: Session) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD)
    steps = plan_recipe(load_recipe(tmp_path / "mine.yaml"), session.store)
    run_steps(steps[:1], session)
    for path in session.store.resolve("docs").path.glob("shard-*"):
        path.unlink()
    with pytest.raises(LongcatError, match=r"^step docs: .*damaged"):
        run_steps(steps, session)


@pytest.mark.parametrize("written", ["12345678901e3456", "1234567890123456", "0123456701234567", "1234567890123e12"])
def test_an_id_that_looks_like_a_number_is_text(written: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    step = "steps:\n  a: {{stage: test.upper, inputs: {{documents: {0}, more: [{0}, b]}}, config: {{rate: 1e-3}}}}\n"
    path.write_text("name: mine\n" + step.format(written))
    step_read = load_recipe(path).steps["a"]
    assert step_read.inputs == {"documents": [written], "more": [written, "b"]}
    assert step_read.config == {"rate": 0.001}
