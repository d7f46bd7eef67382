"""The learning rate of a run that goes on from a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError
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
