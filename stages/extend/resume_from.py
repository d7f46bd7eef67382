"""`longcat extend --resume-from RUN[@STEP]`: the plans of an extension that goes on from a save with other settings.

The phases are those of the whole run: those before the save must be as they were, the phase of the save goes on with
the steps or tokens that it has left, and further ones may follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from longcat.pipeline.config import build_config, identity_values, merge
from longcat.pipeline.errors import ConfigError
from longcat.pipeline.plans import Plan
from longcat.pipeline.runner import Session
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.train.joins.known_runs import KnownRun
from longcat.stages.train.joins.resume_from import Inputs, plan_resumption, values_at


def plan_extension(
    session: Session, text: str, given: Mapping[str, Any], inputs: Inputs, name: str | None = None
) -> list[Plan]:
    """Plans that go on from `RUN[@STEP]`; see `stages.train.joins.resume_from.plan_resumption`, which raises the same.

    Raises:
        ConfigError: a phase before the save was another one, or nothing is left to do.
    """
    return plan_resumption(session, text, given, inputs, name, stage="extend", settings=_settings)


def _settings(run: KnownRun, step: int, given: Mapping[str, Any], text: str) -> ExtendConfig:
    where = f"--resume-from {text}"
    before = build_config(ExtendConfig, run.settings, where=f"configuration of {run.id}")
    # With the settings of phases that change no bit, which the training state does not keep.
    values = values_at(run, step) | {"phases": run.settings["phases"]}
    values.pop("length_schedule", None)
    if given.get("length_schedule"):
        del values["phases"]
    config = build_config(ExtendConfig, merge(values, given), where=where)
    done = run.done_at(step) | _place(before, step)
    for number in range(done["phase"]):
        was, now = before.phases[number], config.phases[number] if number < len(config.phases) else None
        if now is None or identity_values(was) != identity_values(now):
            raise ConfigError(
                f"phases.{number} was done before step {step} of the run with {_written(was)}",
                where=where,
                hint="give the phases of the whole run, those before the save as they were",
            )
    return build_config(ExtendConfig, merge(values, merge(given, {"resumed": done})), where=where)


def _place(config: ExtendConfig, step: int) -> dict[str, int]:
    """Phase of a save, and its steps and tokens before it; the end of a phase lies in it."""
    left = step - config.resumed.steps
    number, before, tokens = config.first_phase, config.steps_of_first, 0
    if before:
        tokens = config.resumed.phase_tokens
    for phase in config.phases_left:
        if left <= phase.step_count:
            break
        left, number, before, tokens = left - phase.step_count, number + 1, 0, 0
    phase = config.phases[number]
    return {
        "phase": number,
        "phase_steps": before + left,
        "phase_tokens": tokens + left * phase.batch_size * phase.sequence_length,
    }


def _written(phase: Any) -> str:
    values = {key: value for key, value in identity_values(phase).items() if value is not None}
    return ", ".join(f"{key} = {value}" for key, value in values.items())
