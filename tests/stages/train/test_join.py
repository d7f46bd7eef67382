"""The learning rate and the data of a run that goes on from a checkpoint, and the plan that tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from longcat.cli.app import run
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.store import Store
from longcat.stages.formats.metrics import read_metrics
from longcat.stages.formats.training_state import TrainingState, read_state
from longcat.stages.train.config import TrainConfig
from longcat.stages.train.joins.schedule import JoinedSchedule, join_schedule

# 40 steps at a peak of 1e-3: the default schedule has decayed to a tenth of it.
FINISHED = TrainingState(step=40, schedule_position=40, learning_rate=1e-4)


def joined(before: TrainingState, steps: int, learning_rate: float = 1e-3, **schedule: Any) -> JoinedSchedule:
    config = TrainConfig.model_validate({"steps": steps, "learning_rate": learning_rate, "schedule": schedule})
    return join_schedule(config, before, steps)


def rates(found: JoinedSchedule) -> list[float]:
    return [found.schedule.learning_rate(found.position + done) for done in range(found.steps)]


def test_after_a_finished_run_the_rate_is_rewarmed_from_its_last_one() -> None:
    found = joined(FINISHED, 10, warmup_steps=4)
    assert (found.how, found.position) == ("rewarm", 0)
    # 1e-4 + 9e-4 * n/4, constant, then down by 4.5e-4 in each of the last two steps (20 % of 10).
    expected = [3.25e-4, 5.5e-4, 7.75e-4, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3, 5.5e-4, 1e-4]
    assert rates(found) == pytest.approx(expected, rel=1e-12)
    assert (found.first, found.peak, found.last) == pytest.approx((3.25e-4, 1e-3, 1e-4))
    assert found.after() == {"schedule_position": 10, "learning_rate": found.last, "warmup_from": 1e-4}


def test_the_rate_goes_down_to_a_lower_peak_in_the_same_way() -> None:
    found = joined(TrainingState(step=5, schedule_position=5, learning_rate=1e-3), 4, 2e-4, warmup_steps=2)
    assert rates(found)[:2] == pytest.approx([6e-4, 2e-4])
    assert found.peak == pytest.approx(6e-4)


def test_a_schedule_with_its_length_goes_on() -> None:
    before = TrainingState(step=6, schedule_position=6, learning_rate=1e-3)
    found = joined(before, 4, total_steps=10, warmup_steps=2)
    assert (found.how, found.position) == ("continue", 6)
    assert rates(found) == pytest.approx([1e-3, 1e-3, 5.5e-4, 1e-4])


def test_a_rewarmed_schedule_goes_on_within_its_warm_up() -> None:
    first = joined(FINISHED, 2, on_join="rewarm", total_steps=10, warmup_steps=4)
    whole = joined(FINISHED, 10, warmup_steps=4)
    before = TrainingState(step=42, **first.after())
    second = joined(before, 8, total_steps=10, warmup_steps=4)
    assert rates(first) + rates(second) == rates(whole)


@pytest.mark.parametrize("more", [{"on_join": "continue"}, {"total_steps": 80}])
def test_a_jump_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        joined(FINISHED, 40, **more)
    assert caught.value.what == (
        "the learning rate would jump: the schedule of the checkpoint ended at 0.0001 at its step 40, this one stands "
        "at 0.001 at step 41 of 80"
    )
    assert "schedule.on_join=rewarm" in str(caught.value.hint)


def test_a_changed_peak_is_a_jump() -> None:
    before = TrainingState(step=6, schedule_position=6, learning_rate=1e-3)
    with pytest.raises(ConfigError, match=r"ended at 0\.001 at its step 6, this one stands at 0\.0005"):
        joined(before, 4, 5e-4, total_steps=10)


def test_a_decay_branches_off_a_constant_rate() -> None:
    before = TrainingState(step=80, schedule_position=80, learning_rate=1e-3)
    assert rates(joined(before, 20, total_steps=100))[:2] == pytest.approx(
        [1e-3 * (1 - 0.9 / 20), 1e-3 * (1 - 1.8 / 20)]
    )
    with pytest.raises(ConfigError, match="would jump"):  # this decay had begun at step 76
        joined(before, 15, total_steps=95)


def test_no_steps_to_rewarm_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"warmup_steps = 0 makes the learning rate jump from 0\.0001"):
        joined(FINISHED, 10, warmup_steps=0)
    assert joined(FINISHED, 10, 1e-4, warmup_steps=0).first == 1e-4
    assert joined(FINISHED, 10, warmup_steps=0, on_join="restart").first == 1e-3


def test_nothing_to_go_on_from_is_a_new_schedule() -> None:
    for more in ({}, {"on_join": "continue"}, {"on_join": "rewarm"}):
        found = joined(TrainingState(), 10, warmup_steps=4, **more)
        assert (found.how, found.first) == ("new", 2.5e-4)


def test_continuing_a_finished_run(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    first = run_stage("train", tiny | {"learning_rate": 1e-3, "steps": 40}, {"tokens": tokens})
    assert read_metrics(first.file("metrics.jsonl"))[-1]["learning_rate"] == pytest.approx(1e-4)
    assert read_state(first).learning_rate == pytest.approx(1e-4)
    onward = {"preset": None, "learning_rate": 1e-3, "steps": 4}
    second = run_stage("train", tiny | onward, {"tokens": tokens, "checkpoint": first})
    # 5 % of 4 steps is one step of warm-up, 20 % one step of decay.
    found = [record["learning_rate"] for record in read_metrics(second.file("metrics.jsonl"))]
    assert found == pytest.approx([1e-3, 1e-3, 1e-3, 1e-4])
    assert (read_state(second).step, read_state(second).schedule_position) == (44, 4)
    grown = run_stage("grow", {}, {"checkpoint": first})
    for checkpoint in (first, grown):
        with pytest.raises(ConfigError, match=r"ended at 0\.0001 at its step 40, this one stands at 0\.001"):
            run_stage(
                "train",
                tiny | onward | {"steps": 40, "schedule": {"on_join": "continue"}},
                {"tokens": tokens, "checkpoint": checkpoint},
            )


def test_on_join_of_a_new_model_is_refused(run_stage: Any, tokens: Artifact, tiny: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"schedule.on_join = restart is for a checkpoint"):
        run_stage("train", tiny | {"schedule": {"on_join": "restart"}}, {"tokens": tokens})


def ids_read(run_stage: Any, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[Artifact, list[int]]:
    """A run, and all token ids of its batches' trained inputs in order."""
    from longcat.stages.train import trainer

    seen: list[int] = []
    original = trainer.batch

    def batch(*given: Any) -> Any:
        found = original(*given)
        ids = found.ids[:, :-1]
        seen.extend((ids.reshape(-1) if found.trained is None else ids[found.trained]).tolist())
        return found

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "batch", batch)
        made = run_stage(*arguments)
    return made, seen


@pytest.fixture
def numbered(publish_artifact: Any) -> Artifact:
    """1,023 different tokens in documents of 16 to 46: an id is a place in the file."""
    from longcat.pipeline.tokens import TokenWriter
    from tests.stages.train.conftest import write_tokenizer

    lengths = [16 + 3 * index for index in range(11)] * 3

    def fill(output: Any) -> None:
        start = 0
        with TokenWriter(output / "train", 1024) as writer:
            for length in lengths:
                writer.add_document(np.arange(start, start + length))
                start += length
        with TokenWriter(output / "validation", 1024) as writer:
            writer.add_document(np.arange(60))
        write_tokenizer(output / "tokenizer.json", 1024)
        (output / "tokenizer_config.json").write_text("{}")

    made: Artifact = publish_artifact("70ce500000000009", "tokens", "data.pack", fill)
    return made


def test_another_length_reads_what_was_not_read(
    run_stage: Any, numbered: Artifact, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 of 31 windows of 32, then 19 windows of 16 with other tokens."""
    settings = tiny | {"loader_workers": 0, "steps": 3}
    first, seen = ids_read(run_stage, monkeypatch, "train", settings, {"tokens": numbered})
    assert len(set(seen)) == 12 * 32
    onward = settings | {"preset": None, "sequence_length": 16, "batch_size": 19, "steps": 1}
    inputs = {"tokens": numbered, "checkpoint": first}
    second, more = ids_read(run_stage, monkeypatch, "train", onward, inputs)
    assert len(set(more)) == len(more) > 19 * 16 * 0.9
    assert not set(more) & set(seen)
    data = read_state(second).data
    assert data is not None
    assert data.model_dump(include={"epoch", "position", "tokens_before"}) == {
        "epoch": 0,
        "position": 19,
        "tokens_before": 384,
    }
    (plan,) = second.manifest.metrics["plan"]
    # 12 windows are 384 of 1,023 tokens; this run reads about half of the others.
    assert plan["epochs_before"] == pytest.approx(384 / 1023, abs=1e-4)
    assert plan["epochs"] == pytest.approx(len(more) / 1023, rel=0.05)
    assert (plan["seen_before"], plan["data"], plan["schedule"]) == (0, "rest", "rewarm")


def test_the_plan_of_a_run_is_told_before_its_first_step(
    run_stage: Any, numbered: Artifact, tiny: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="longcat")
    settings = tiny | {"steps": 8, "learning_rate": 1e-3}
    first = run_stage("train", settings, {"tokens": numbered})
    text = [
        "8 steps of 4 x 32 tokens: 1,024 tokens, 1.03 epochs",
        "learning rate 0.001 at the start, 0.001 at the highest, 0.0001 at the end; a new schedule of 8 steps, warmed "
        "up from 0",
        "data: from its beginning",
        "0.0% of it the model was trained on before this run",
    ]
    assert [line for line in caplog.messages if line in text] == text
    assert first.manifest.metrics["plan"] == [
        {
            "sequence_length": 32,
            "steps": 8,
            "tokens": 1024,
            "epochs": 1.0323,
            "epochs_before": 0.0,
            "seen_before": 0.0,
            "learning_rate": {"start": 1e-3, "peak": 1e-3, "end": pytest.approx(1e-4)},
            "schedule": "new",
            "data": "new",
        }
    ]
    caplog.clear()
    grown = run_stage("grow", {}, {"checkpoint": first})
    run_stage("train", settings | {"preset": None, "seed": 7}, {"tokens": numbered, "checkpoint": grown})
    text = [
        "learning rate 0.001 at the start, 0.001 at the highest, 0.0001 at the end; a schedule of its own of 8 steps, "
        "warmed up from 0.0001, where the checkpoint ended",
        "data: another order or selection of the documents than the checkpoint has read, from the beginning",
        "100.0% of it the model was trained on before this run",
    ]
    assert [line for line in caplog.messages if line in text] == text


def test_other_tokens_are_not_known_and_the_first_go_on_afterwards(
    run_stage: Any,
    tokens: Artifact,
    make_tokens: Any,
    tiny: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="longcat")
    first = run_stage("train", tiny, {"tokens": tokens})
    other = make_tokens([80] * 50, seed=1, identifier="70ce500000000002")
    onward = tiny | {"preset": None, "steps": 2}
    second = run_stage("train", onward, {"tokens": other, "checkpoint": first})
    assert second.manifest.metrics["plan"][0]["seen_before"] is None
    assert "data: other tokens than the checkpoint has read, from the beginning" in caplog.messages
    third = run_stage("train", onward, {"tokens": tokens, "checkpoint": second})
    (plan,) = third.manifest.metrics["plan"]
    assert (plan["data"], plan["seen_before"]) == ("continue", 0)
    state = read_state(third)
    assert state.data is not None
    assert state.data.position == 8 * 4 + 2 * 4
    assert [one.tokens for one in state.other_data] == [other.id]


PHASES = [
    {"sequence_length": 64, "rope_theta": 5e6, "steps": 2, "batch_size": 2, "min_document_tokens": 40},
    {"sequence_length": 128, "rope_theta": 5e6, "steps": 2, "batch_size": 1, "min_document_tokens": 40},
]


def test_the_phases_of_an_extension_read_the_documents_that_were_read_least(
    run_stage: Any, numbered: Artifact, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, seen = ids_read(
        run_stage, monkeypatch, "train", tiny | {"steps": 1, "loader_workers": 0}, {"tokens": numbered}
    )
    config = {key: tiny[key] for key in ("device", "threads", "evaluation")}
    config |= {"long_document_fraction": 0.0, "phases": PHASES, "packing": "best_fit", "learning_rate": 1e-3}
    inputs = {"checkpoint": base, "tokens": numbered}
    extended, more = ids_read(run_stage, monkeypatch, "extend", config | {"loader_workers": 0}, inputs)
    # 4 windows of 32, 4 of 64, 2 of 128, of whole documents of 16 to 46 tokens.
    plans = [phase["plan"] for phase in extended.manifest.metrics["phases"]]
    assert [plan["data"] for plan in plans] == ["rest", "rest"]
    again = len(set(more) & set(seen))
    assert 0 < again < len(more) / 8  # an eighth of the tokens was read
    assert again == round(sum(plan["seen_before"] * plan["tokens"] for plan in plans))
    # The base ended at 3e-4; the first of 4 steps is its warm-up, the last one its decay.
    assert [plan["learning_rate"] for plan in plans] == [
        {"start": 1e-3, "peak": 1e-3, "end": 1e-3},
        {"start": 1e-3, "peak": 1e-3, "end": pytest.approx(1e-4)},
    ]
    data = read_state(extended).data
    assert data is not None
    assert [(one.sequence_length, one.samples) for one in data.read] == [(32, 4), (64, 4)]


def test_the_long_documents_of_an_extension_have_their_own_position(
    run_stage: Any, numbered: Artifact, tiny: dict[str, Any]
) -> None:
    base = run_stage("train", tiny | {"steps": 1}, {"tokens": numbered})
    config = {key: tiny[key] for key in ("device", "threads", "evaluation")}
    config |= {"long_document_fraction": 0.5, "phases": PHASES}
    inputs = {"tokens": numbered}
    extended = run_stage("extend", config, inputs | {"checkpoint": base})
    state = read_state(extended)
    assert state.data is not None
    (long,) = state.other_data
    assert (state.data.position, long.position, long.min_document_tokens) == (1, 1, 40)
    assert [(one.sequence_length, one.samples) for one in state.data.read] == [(32, 4), (64, 2)]
    assert [(one.sequence_length, one.samples) for one in long.read] == [(64, 2)]
    # 128 of 1,023 tokens were read, so about an eighth of the long documents, too.
    (first, _) = extended.manifest.metrics["phases"]
    assert 0 < first["plan"]["seen_before"] < 0.13
    again = run_stage("extend", config | {"phases": PHASES[1:]}, inputs | {"checkpoint": extended})
    after = read_state(again)
    assert after.data is not None
    assert (after.data.position, after.other_data[0].position) == (2, 2)


def test_dry_run_shows_the_plan_and_refuses_a_jump(
    store: Store, run_stage: Any, numbered: Artifact, tiny: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    first = run_stage("train", tiny | {"learning_rate": 1e-3, "steps": 40}, {"tokens": numbered}, "base")
    command = ["--store", str(store.root), "train", "--tokens", numbered.id, "--checkpoint", "base", "--steps", "40"]
    command += ["--sequence-length", "32", "--batch-size", "4", "--dry-run"]
    assert run([*command, "--json"]) == 0
    (step,) = json.loads(capfd.readouterr().out)["steps"]
    # 160 of 31 windows an epoch were read, and 160 more are.
    assert step["training"] == [
        {
            "sequence_length": 32,
            "steps": 40,
            "tokens": 5120,
            "epochs": 5.1613,
            "epochs_before": 5.1613,
            "seen_before": 1.0,
            "learning_rate": {"start": pytest.approx(5.5e-4), "peak": 1e-3, "end": pytest.approx(1e-4)},
            "schedule": "rewarm",
            "data": "continue",
        }
    ]
    assert run(command) == 0
    out = capfd.readouterr().out
    assert "lr start" in out and "0.00055" in out and "100.0%" in out
    assert run([*command[:-1], "--set", "schedule.on_join=continue"]) == 3
    message = "the schedule of the checkpoint ended at 0.0001 at its step 40, this one stands at 0.001 at step 41 of 80"
    assert message in capfd.readouterr().err
    assert [artifact.id for artifact in store.artifacts() if artifact.kind == "checkpoint"] == [first.id]


def test_a_jump_is_found_before_the_checkpoint_of_a_recipe_exists(
    tmp_path: Path, numbered: Artifact, tiny: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    onward = tiny | {"preset": None, "schedule": {"on_join": "continue"}, "steps": 40}
    recipe = {
        "name": "chain",
        "steps": {
            "base": {"stage": "train", "inputs": {"tokens": str(numbered.path)}, "config": tiny | {"steps": 40}},
            "grown": {"stage": "grow", "inputs": {"checkpoint": "base"}},
            "on": {"stage": "train", "inputs": {"tokens": str(numbered.path), "checkpoint": "grown"}, "config": onward},
        },
    }
    path = tmp_path / "chain.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert run(["--store", str(tmp_path / "other"), "run", str(path), "--dry-run"]) == 3
    assert "ended at 0.0003 at its step 40, this one stands at 0.003" in capfd.readouterr().err
    recipe["steps"]["on"]["config"]["schedule"] = {}
    path.write_text(yaml.safe_dump(recipe))
    assert run(["--store", str(tmp_path / "other"), "run", str(path), "--dry-run", "--json"]) == 0
    rows = [row for step in json.loads(capfd.readouterr().out)["steps"] for row in step["training"]]
    assert [(row["schedule"], row["data"], row["epochs_before"]) for row in rows] == [
        ("new", "new", 0),
        ("rewarm", "continue", 5.1613),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"train": {"batch_size": 400}},
        {"extend": {"phases": [{"sequence_length": 512, "steps": 1, "batch_size": 400}], "long_document_fraction": 0}},
    ],
)
def test_dry_run_tells_that_the_tokens_do_not_fill_a_batch(
    store: Store,
    run_stage: Any,
    numbered: Artifact,
    tiny: dict[str, Any],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    settings: dict[str, Any],
) -> None:
    run_stage("train", tiny | {"steps": 1}, {"tokens": numbered}, "base")
    ((stage, changes),) = settings.items()
    plain = {"steps": 1, "sequence_length": 32} if stage == "train" else {}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(plain | changes))
    command = ["--store", str(store.root), stage, "--tokens", numbered.id, "--checkpoint", "base"]
    command += ["--config", str(tmp_path / "run.yaml")]
    assert run([*command, "--dry-run", "--json"]) == 0
    (step,) = json.loads(capfd.readouterr().out)["steps"]
    (row,) = step["training"]
    assert (row["data"], row["seen_before"]) == (None, None)
    assert row["problem"].startswith("the tokens fill") and "batch_size is 400" in row["problem"]
    assert run(command) == 3
    assert row["problem"] in capfd.readouterr().err
