"""`longcat train --resume-from RUN[@STEP]`: the plans of a run that goes on from a save with other settings.

`stages.extend.resume_from` is that of `longcat extend`.

What is not given comes from that run, also its tokens. Steps and budgets count from the start of the run, so `--steps
600` after 400 steps are 200 more. The learning rate continues its schedule where that is possible without a jump, else
it is warmed up again from where it was (`stages.train.joins.schedule`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import build_config, merge
from longcat.pipeline.errors import ConfigError, InputError, UsageError
from longcat.pipeline.outcome import Outcome
from longcat.pipeline.plans import Plan, PlannedInput
from longcat.pipeline.runner import Reference, Session, execute, plan_named, planned_input
from longcat.pipeline.store import utc_now
from longcat.stages.formats.training_state import TrainingState, foreseen_state
from longcat.stages.train.config import TrainConfig, TrainingOptions
from longcat.stages.train.joins.known_runs import KnownRun, find_run, parse, plan_publication
from longcat.stages.train.joins.schedule import join_schedule

# What belongs to the start of the earlier run: its model, how it joined another one, its place among nodes.
OF_ITS_START = ("preset", "model", "keep_own", "resumed", "node_rank", "schedule.on_join", "optimizer.state")

Inputs = Mapping[str, Reference | Sequence[Reference]]
# The configuration of a run that goes on from the save of a step with given settings, called by a text in errors.
Settings = Callable[[KnownRun, int, Mapping[str, Any], str], TrainingOptions]


def publish_run(session: Session, text: str, name: str | None = None) -> Outcome:
    """Make the save that `RUN[@STEP]` means an artifact, and name it; the end of a finished run is one already.

    Raises:
        LongcatError: there is no such run or save, or it is damaged.
    """
    plan = plan_publish(session, text, name)
    if isinstance(plan, Plan):
        return execute(plan, session)
    named = session.store.refs.publish(name, plan.id, plan.kind, utc_now()) if name is not None else None
    return Outcome(plan, True, named)


def plan_publish(session: Session, text: str, name: str | None = None) -> Plan | Artifact:
    """The plan of `publish_run`, or the artifact at the end of a finished run."""
    reference, step = parse(text)
    run = find_run(session.store, reference)
    session.store.hold([run.id])
    return _saved(session, run, run.choose(step), name)


def _saved(session: Session, run: KnownRun, step: int, name: str | None = None) -> Plan | Artifact:
    if run.artifact is not None and step == run.last:
        return run.artifact
    return plan_publication(session, run, step, name)


def plan_resumption(
    session: Session,
    text: str,
    given: Mapping[str, Any],
    inputs: Inputs,
    name: str | None = None,
    *,
    stage: str = "train",
    settings: Settings | None = None,
) -> list[Plan]:
    """Plans that go on from `RUN[@STEP]` with the `given` settings and inputs: the save's artifact, then the run.

    `settings` gives the configuration of a `stage` that has its own.

    An unfinished run whose settings and inputs are the same is gone on with itself.

    Raises:
        UsageError: another model is given too.
        LongcatError: there is no such run or save, or the settings do not fit.
    """
    if clash := next((role for role in ("checkpoint", "proxy") if role in inputs), None):
        raise UsageError(f"--resume-from names the checkpoint, {clash} another one", hint="give one of them")
    reference, step = parse(text)
    run = find_run(session.store, reference)
    if run.stage != stage:
        raise InputError(
            f"{run.label} is a run of {run.stage}, --resume-from goes on from one of {stage}",
            hint=f"`longcat {run.stage} --resume-from {text}` goes on with it; `longcat train publish {text} --name "
            "NAME` makes its save a checkpoint",
        )
    session.store.hold([run.id])
    own = settings_of if settings is None else settings
    itself = _itself(session, run, given, inputs, name) if run.artifact is None and step is None else None
    if itself is not None:
        return [itself]
    at = run.choose(step)
    saved = _saved(session, run, at)
    start, earlier = _as_input(session, saved)
    tokens = inputs.get("tokens") or run.artifacts(session.store)["tokens"]
    config = own(run, at, given, text)
    if (state := foreseen_state(start)) is not None and config.schedule.on_join is None:
        config = _joined(config, state, keeps_total="total_steps" in given.get("schedule", {}))
    return [*earlier, plan_named(session, stage, config, {"tokens": tokens, "checkpoint": start}, name)]


def _itself(session: Session, run: KnownRun, given: Mapping[str, Any], inputs: Inputs, name: str | None) -> Plan | None:
    """The plan of an unfinished run, if the given settings and inputs leave its id as it is."""
    config = merge({key: value for key, value in run.settings.items() if key != "node_rank"}, given)
    with suppress(ConfigError):  # a setting that does not fit this run may fit one that goes on from its save
        plan = plan_named(session, run.stage, config, {**run.artifacts(session.store), **inputs}, name or run.name)
        return plan if plan.id == run.id else None
    return None


def _as_input(session: Session, saved: Plan | Artifact) -> tuple[PlannedInput, list[Plan]]:
    """A save as an input, and the plans that make it."""
    if isinstance(saved, Artifact):
        return planned_input(session.store, saved), []
    made = session.store.get(saved.stage.output, saved.id)
    if made is not None:
        return planned_input(session.store, made), []
    return PlannedInput(saved.id, saved.stage.output, forecast=saved.forecast), [saved]


def settings_of(run: KnownRun, step: int, given: Mapping[str, Any], text: str) -> TrainingOptions:
    """Configuration of a run of `train` that goes on from the save of a step; raises ConfigError."""
    values = values_at(run, step)
    if {"steps", "token_budget"} & given.keys():
        values |= {"steps": None, "token_budget": None}
    values = merge(merge(values, given), {"resumed": run.done_at(step)})
    return build_config(TrainConfig, values, where=f"--resume-from {text}")


def values_at(run: KnownRun, step: int) -> dict[str, Any]:
    """Settings used at a save, without those that belong to the start of its run."""
    values = run.settings_at(step)
    for key in OF_ITS_START:
        _remove(values, key.split("."))
    return values


def _remove(values: dict[str, Any], path: Sequence[str]) -> None:
    *parents, last = path
    for key in parents:
        values[key] = dict(values.get(key, {}))
        values = values[key]
    values.pop(last, None)


def _joined(config: TrainingOptions, state: TrainingState, *, keeps_total: bool) -> TrainingOptions:
    """`config` with the schedule of the run continued, or, where the learning rate would jump, re-warmed."""
    total = config.schedule.total_steps
    if not keeps_total and total is not None and total < state.schedule_position + config.all_steps:
        total = None  # the run is longer now than the schedule that it was given
    continued = _with_schedule(config, on_join="continue", total_steps=total)
    try:
        join_schedule(continued, state, config.all_steps)
    except ConfigError:
        return _with_schedule(config, on_join="rewarm", total_steps=total if keeps_total else None)
    return continued


def _with_schedule(config: TrainingOptions, **changes: Any) -> TrainingOptions:
    return config.model_copy(update={"schedule": config.schedule.model_copy(update=changes)})
