"""A run goes on from a save of another one; a save becomes a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError, IntegrityError, MissingArtifactError, UsageError
from longcat.pipeline.gc import Options, collect
from longcat.pipeline.runner import Session, execute
from longcat.pipeline.store import Store
from longcat.stages.formats.checkpoint import read_start
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import read_state
from longcat.stages.train.joins.known_runs import parse
from longcat.stages.train.joins.resume_from import plan_resumption, publish_run

Contents = Callable[[Artifact], dict[str, str]]
Interrupt = Callable[..., str]
TRAINED = ("model.safetensors", "training/optimizer.safetensors", "training/average.safetensors")


@pytest.fixture
def settings(tiny: dict[str, Any]) -> dict[str, Any]:
    """10 steps, saved after 3, 6 and 9. The balance loss is off: its alpha is measured anew after a join."""
    return tiny | {"steps": 10, "balance_loss": {"enabled": False}, "optimizer": {"average_decay": 0.9}}


@pytest.fixture
def resume(session: Session) -> Callable[..., Artifact]:
    """Go on from a run with settings and inputs."""

    def run(text: str, given: dict[str, Any] | None = None, name: str | None = None, **inputs: Any) -> Artifact:
        for plan in plan_resumption(session, text, given or {}, inputs, name):
            outcome = execute(plan, session)
        return outcome.artifact

    return run


def trained(artifact: Artifact, contents: Contents) -> dict[str, str]:
    return {name: contents(artifact)[name] for name in TRAINED}


def rates(artifact: Artifact) -> list[float]:
    return [record["learning_rate"] for record in read_metrics(artifact.file("metrics.jsonl"))]


def test_the_text_names_a_run_and_a_step() -> None:
    assert parse("base@300") == ("base", 300)
    assert parse("base@2@300") == ("base@2", 300)
    assert parse("base") == ("base", None)
    assert parse("base@latest") == ("base@latest", None)


def test_going_on_with_the_same_settings_gives_the_same_bits(
    run_apart: Any, resume: Any, interrupt: Interrupt, settings: Any, tokens: Artifact, contents: Contents, bars: Any
) -> None:
    whole = run_apart("train", settings, {"tokens": tokens})
    run = interrupt(settings, name="live")
    branch = resume("live@3")
    assert [task for task in bars.tasks if task[0] == "training"][-1] == ("training", 10, [3, *[1] * 7])
    assert branch.id not in (run, whole.id)
    assert trained(branch, contents) == trained(whole, contents)
    assert read_metrics(branch.file("metrics.jsonl"))[-1] == read_metrics(whole.file("metrics.jsonl"))[-1]
    assert [record["step"] for record in read_metrics(branch.file("metrics.jsonl"))] == [4, 5, 6, 7, 8, 9, 10]
    state, expected = read_state(branch), read_state(whole)
    assert state.model_copy(update={"config": {}}) == expected.model_copy(update={"config": {}})
    # The steps are those of the run, of which this one is a part.
    assert (branch.manifest.config["steps"], branch.manifest.config["resumed"]["steps"]) == (10, 3)
    assert (branch.manifest.counts["steps"], branch.manifest.counts["total_steps"]) == (7, 10)
    # ... and again from a save of that part: the numbers are still those of the first run.
    again = resume(f"{branch.id}", {"steps": 12})
    assert (again.manifest.counts["steps"], again.manifest.counts["total_steps"]) == (2, 12)


def test_the_lineage_has_the_save_and_what_it_was_made_from(
    store: Store, resume: Any, interrupt: Interrupt, settings: Any, tokens: Artifact
) -> None:
    run = interrupt(settings)
    branch = resume(f"{run[:6]}", {"learning_rate": 1e-3, "batch_size": 2}, "low")
    (checkpoint,) = branch.manifest.inputs["checkpoint"]
    save = store.resolve(checkpoint.id)
    assert save.manifest.stage == "train.publish"
    assert (save.manifest.config["run"], save.manifest.config["step"]) == (run, 6)
    assert [item.id for item in save.manifest.inputs["tokens"]] == [tokens.id]
    config = branch.manifest.config
    assert (config["learning_rate"], config["batch_size"], config["sequence_length"]) == (1e-3, 2, 32)
    assert branch.manifest.counts["tokens"] == 4 * 2 * 32
    assert save.damage() == branch.damage() == []
    # Everything survives a collection: the branch is named, the save is its input, the run is unfinished.
    store.live.close()
    assert collect(store, Options()).garbage == []
    assert store.resolve(save.id).id == save.id


def test_a_run_with_the_same_settings_is_gone_on_with_itself(
    session: Session, run_apart: Any, resume: Any, interrupt: Interrupt, settings: Any, tokens: Artifact, contents: Any
) -> None:
    whole = run_apart("train", settings, {"tokens": tokens})
    run = interrupt(settings, name="live")
    (plan,) = plan_resumption(session, "live", {"learning_rate": 3e-3, "keep_last": 4}, {})
    assert (plan.id, plan.name) == (run, "live")
    made = resume("live", {"keep_last": 4})
    assert made.id == run == whole.id
    assert trained(made, contents) == trained(whole, contents)


def test_the_learning_rate_continues_or_is_warmed_up_again(resume: Any, interrupt: Interrupt, settings: Any) -> None:
    run = interrupt(settings | {"steps": 20, "schedule": {"warmup_steps": 1}}, after=13)
    # The peak of 3e-3 goes on, and the decay ends where the run ends now: 4 of 16 steps.
    decayed = rates(resume(run, {"steps": 16, "schedule": {"decay_fraction": 0.25}}))
    assert decayed == pytest.approx([3e-3 * (1 - 0.9 * n / 4) for n in (1, 2, 3, 4)])
    # Another peak: warmed up from where the save was, in one step, to a schedule of the 8 steps that are left.
    lower = rates(resume(f"{run}@12", {"learning_rate": 1e-3}))
    assert lower == pytest.approx([1e-3] * 6 + [1e-3 * 0.55, 1e-3 * 0.1])
    # As asked.
    restarted = rates(resume(f"{run}@12", {"schedule": {"on_join": "restart", "warmup_steps": 2}}))
    assert restarted[:2] == pytest.approx([1.5e-3, 3e-3])


def test_more_steps_for_a_finished_run(
    store: Store, run_stage: Any, resume: Any, settings: Any, tokens: Artifact
) -> None:
    base = run_stage("train", settings, {"tokens": tokens}, "base")
    longer = resume("base", {"steps": 14}, "longer")
    assert [item.id for item in longer.manifest.inputs["checkpoint"]] == [base.id]
    assert (longer.manifest.counts["steps"], longer.manifest.counts["total_steps"]) == (4, 14)
    assert rates(longer)[0] == pytest.approx(3e-3)  # one step from 3e-4 back to the peak
    position = read_state(longer).data
    assert position is not None and position.position == 14 * 4
    with pytest.raises(ConfigError, match=r"steps = 10 counts from the start of the run, which has done 10; give a l"):
        resume("base")
    with pytest.raises(InputError, match=r"base \(\w+\) has no save of step 6: its saves are those of steps 10"):
        resume("base@6", {"steps": 14})
    budget = resume("longer", {"token_budget": 15 * 4 * 32})
    assert (budget.manifest.counts["steps"], budget.manifest.counts["total_steps"]) == (1, 15)
    with pytest.raises(ConfigError, match=r"token_budget = 1000 counts from the start of the run, which has done 1792"):
        resume("longer", {"token_budget": 1000})


def test_other_data(run_stage: Any, resume: Any, settings: Any, tokens: Artifact, make_tokens: Any) -> None:
    run_stage("train", settings, {"tokens": tokens}, "base")
    other = make_tokens([90] * 60, seed=3, identifier="70ce500000000002")
    made = resume("base", {"steps": 12}, tokens=other)
    assert [item.id for item in made.manifest.inputs["tokens"]] == [other.id]
    assert read_state(made).data.tokens == other.id  # type: ignore[union-attr]


def test_a_save_becomes_a_checkpoint(
    session: Session, run_apart: Any, interrupt: Interrupt, settings: Any, tokens: Artifact, contents: Contents
) -> None:
    """A run that ends at the step of the save has the same weights, moments, averages and figures."""
    settings |= {"schedule": {"total_steps": 10}, "balance_loss": {"enabled": True}}
    short = run_apart("train", settings | {"steps": 6, "evaluation": {"every": 3, "windows": 4}}, {"tokens": tokens})
    interrupt(settings | {"evaluation": {"every": 3, "windows": 4}}, name="live")
    outcome = publish_run(session, "live", "rescued")
    save = outcome.artifact
    assert outcome.named is not None and outcome.named.name == "rescued"
    assert trained(save, contents) == trained(short, contents)
    assert contents(save)["config.json"] == contents(short)["config.json"]
    assert contents(save)["metrics.jsonl"] == contents(short)["metrics.jsonl"]
    kept = {"config": {}}
    assert read_state(save).model_copy(update=kept) == read_state(short).model_copy(update=kept)
    assert read_start(save).balance_coefficient == read_start(short).balance_coefficient
    assert save.manifest.counts == {**short.manifest.counts}
    assert {key: short.manifest.metrics[key] for key in save.manifest.metrics} == save.manifest.metrics
    assert publish_run(session, "rescued").artifact.id == save.id  # it ends there


def test_saves_of_a_finished_run_are_kept(
    session: Session, store: Store, run_stage: Any, resume: Any, interrupt: Interrupt, settings: Any, tokens: Artifact
) -> None:
    interrupt(settings, name="live")
    early = publish_run(session, "live@6").artifact
    finished = resume("live", {"keep_every": 2})
    kept = sorted({Path(entry.path).parts[2] for entry in finished.manifest.files if "saves" in entry.path})
    assert kept == ["step-000000006", "step-000000008"]
    assert finished.damage() == []
    again = publish_run(session, f"{finished.id}@6")
    assert (again.artifact.id, again.reused) == (early.id, True)
    store.remove(early)
    assert publish_run(session, f"{finished.id}@6").artifact.manifest.files == early.manifest.files
    branch = resume(f"{finished.id}@8", {"steps": 9})
    assert branch.manifest.counts["steps"] == 1
    assert publish_run(session, finished.id, "end").artifact.id == finished.id
    assert store.resolve("end").id == finished.id


@pytest.mark.parametrize("file", ["model-00000.safetensors", "state.json"])
def test_a_damaged_save_is_refused(
    file: str, session: Session, store: Store, interrupt: Interrupt, settings: Any
) -> None:
    run = interrupt(settings)
    path = store.staging(run).work / "training" / "checkpoints" / "step-000000006" / file
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="the save of step 6 is damaged"):
        publish_run(session, run)
    assert publish_run(session, f"{run}@3").artifact.manifest.counts["steps"] == 3


def test_which_run_is_meant(
    session: Session, store: Store, interrupt: Interrupt, run_stage: Any, settings: Any, tokens: Artifact
) -> None:
    first = interrupt(settings, name="live")
    second = interrupt(settings | {"seed": 1}, name="live")
    with pytest.raises(MissingArtifactError, match=rf"'live' means several runs: .*{second}"):
        publish_run(session, "live")
    with pytest.raises(MissingArtifactError, match=r"no training run 'lice'") as caught:
        publish_run(session, "lice")
    assert f"{first} (live: train, step 6 of 10)" in str(caught.value.hint)
    with pytest.raises(InputError, match=r"no save of step 4: its saves are those of steps 3, 6"):
        publish_run(session, f"{first}@4")
    with pytest.raises(InputError, match=r"tokens/70ce500000000001 was made by data\.pack, not by train or extend"):
        publish_run(session, tokens.id)
    for role in ("checkpoint", "proxy"):
        with pytest.raises(UsageError, match=f"--resume-from names the checkpoint, {role} another one"):
            plan_resumption(session, first, {}, {role: tokens})
    with pytest.raises(ConfigError, match="a checkpoint defines its own"):
        plan_resumption(session, first, {"preset": "tiny"}, {})
    store.live.close()
    collect(store, Options(unfinished=True))
    with pytest.raises(MissingArtifactError, match=rf"{first} is in quarantine"):
        publish_run(Session(Store(store.root)), first)


def test_growth_starts_a_run_of_its_own(session: Session, run_stage: Any, settings: Any, tokens: Artifact) -> None:
    base = run_stage("train", settings, {"tokens": tokens})
    run_stage("grow", {}, {"checkpoint": base}, "grown")
    with pytest.raises(InputError, match=r"was made by grow, not by train or extend .*`--checkpoint grown` starts"):
        publish_run(session, "grown")
