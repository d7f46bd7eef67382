"""Checks of an extension before it runs; no torch."""

from __future__ import annotations

from typing import Any

from longcat.pipeline.errors import ConfigError, InputError
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.extend.outlook import outlooks
from longcat.stages.extend.step import config_of_phase
from longcat.stages.formats.architecture import architecture_of
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.training_state import TrainingState, foreseen_state
from longcat.stages.train.check import Inputs, check_options, check_parallel, check_vocabulary, forecast, with_kinds_of
from longcat.stages.train.joins.outlook import Outlook
from longcat.stages.train.joins.schedule import JoinedSchedule, join_schedule


def foresee_extension(config: ExtendConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `extend`; raises as `stages.train.check.foresee_training`."""
    before = foreseen_state(inputs["checkpoint"][0])
    config = with_kinds_of(before, config)
    joined = None if before is None else join_schedule(config, before, config.all_steps)
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return forecast(None, config, before, joined, _outlooks(config, inputs, before, joined))
    check_vocabulary(vocabulary_of(inputs["tokens"][0]), model)
    check_options(config, model)
    check_start(config, before)
    for number, phase in enumerate(config.phases_left, start=config.first_phase):
        model = config_of_phase(model, phase, number)
        check_parallel(config, model, phase.sequence_length, phase.batch_size, phase.micro_batch_size)
    return forecast(model, config, before, joined, _outlooks(config, inputs, before, joined))


def check_start(config: ExtendConfig, before: TrainingState | None) -> None:
    """Raise ConfigError if the first phase has shorter sequences than the last training, if that is known."""
    first, number = config.phases_left[0], config.first_phase
    trained_length = 0 if before is None or before.data is None else before.data.sequence_length
    if first.sequence_length < trained_length:
        raise ConfigError(
            f"phases.{number}.sequence_length = {first.sequence_length} is below the {trained_length} tokens that the "
            "checkpoint was trained with",
            hint="raise it; `longcat train` continues with shorter sequences",
        )


def _outlooks(
    config: ExtendConfig, inputs: Inputs, before: TrainingState | None, joined: JoinedSchedule | None
) -> list[Outlook]:
    tokens, unknown = inputs["tokens"][0].artifact, [None] * len(config.phases_left)
    if tokens is None or before is None:
        return outlooks(config, joined, unknown)
    from longcat.stages.extend.data import phases_data

    try:
        return outlooks(config, joined, list(phases_data(config, tokens, before)))
    except InputError as error:
        return outlooks(config, joined, unknown, error.what)
