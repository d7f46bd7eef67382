"""Checks of an extension before it runs; no torch."""

from __future__ import annotations

from typing import Any

from longcat.pipeline.errors import ConfigError
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.extend.step import config_of_phase
from longcat.stages.formats.architecture import architecture_of
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.training_state import TrainingState, foreseen_state
from longcat.stages.train.check import Inputs, check_options, check_parallel, check_vocabulary, forecast, with_kinds_of


def foresee_extension(config: ExtendConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `extend`; raises as `stages.train.check.foresee_training`."""
    tokens = sum(phase.step_count * phase.batch_size * phase.sequence_length for phase in config.phases)
    before = foreseen_state(inputs["checkpoint"][0])
    config = with_kinds_of(before, config)
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return forecast(None, config, before, tokens)
    check_vocabulary(vocabulary_of(inputs["tokens"][0]), model)
    check_options(config, model)
    check_start(config, before)
    for number, phase in enumerate(config.phases):
        model = config_of_phase(model, phase, number)
        check_parallel(config, model, phase.sequence_length, phase.batch_size, phase.micro_batch_size)
    return forecast(model, config, before, tokens)


def check_start(config: ExtendConfig, before: TrainingState | None) -> None:
    """Raise ConfigError if the first phase has shorter sequences than the last training, if that is known."""
    first = config.phases[0]
    trained_length = 0 if before is None or before.data is None else before.data.sequence_length
    if first.sequence_length < trained_length:
        raise ConfigError(
            f"phases.0.sequence_length = {first.sequence_length} is below the {trained_length} tokens that the "
            "checkpoint was trained with",
            hint="raise it; `longcat train` continues with shorter sequences",
        )
