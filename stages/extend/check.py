"""Checks of an extension before it runs; no torch."""

from __future__ import annotations

from typing import Any

from longcat.stages.extend.config import ExtendConfig
from longcat.stages.formats.architecture import architecture_of, changed_config
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.training_state import foreseen_state
from longcat.stages.train.check import Inputs, check_options, check_parallel, check_vocabulary, forecast


def foresee_extension(config: ExtendConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `extend`; raises as `stages.train.check.foresee_training`."""
    tokens = sum(phase.step_count * phase.batch_size * phase.sequence_length for phase in config.phases)
    before = foreseen_state(inputs["checkpoint"][0])
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return forecast(None, config, before, tokens)
    check_vocabulary(vocabulary_of(inputs["tokens"][0]), model)
    check_options(config, model)
    for phase in config.phases:
        length = max(phase.sequence_length, model.max_position_embeddings)
        model = changed_config(model, {"rope_theta": phase.rope_theta, "max_position_embeddings": length}, "phases")
        check_parallel(config, model, phase.sequence_length, phase.batch_size, phase.micro_batch_size)
    return forecast(model, config, before, tokens)
