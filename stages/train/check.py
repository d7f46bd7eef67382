"""Checks of a training before it runs, from its configuration and the known properties of its inputs; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from longcat.model.config import ModelConfig
from longcat.pipeline.errors import ConfigError, InputError
from longcat.stages.formats.architecture import architecture_of, preset_architecture
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.training_state import TrainingState, foreseen_state
from longcat.stages.train.config import TrainConfig, TrainingOptions
from longcat.stages.train.join import JoinedSchedule, join_schedule
from longcat.stages.train.load_balance.controller import controller_of
from longcat.stages.train.outlook import Outlook, outlook_of
from longcat.stages.train.parallel.config import Degrees, check_fits, degrees
from longcat.stages.train.stability.config import expert_groups

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.train.data_join import JoinedData

Inputs = Mapping[str, "tuple[PlannedInput, ...]"]


def foresee_training(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `train`: the model, steps and tokens of the run.

    Raises:
        ConfigError: the configuration names no model, does not fit the model, or the learning rate would jump.
        InputError: the inputs exclude each other.
    """
    checkpoint = next(iter(inputs.get("checkpoint", ())), None)
    vocabulary = vocabulary_of(inputs["tokens"][0])
    check_model_is_named(config, continued=checkpoint is not None)
    if inputs.get("proxy"):
        from longcat.stages.train.optim.transfer import check_new, own_settings

        check_new(continued=checkpoint is not None)
        own_settings(config)
    model: ModelConfig | None
    if checkpoint is None:
        model = preset_architecture(preset_of(config), config.model, vocabulary)
    else:
        model = architecture_of(checkpoint)
        if model is not None:
            check_vocabulary(vocabulary, model)
    if model is not None:
        check_length(config.sequence_length, model)
        check_options(config, model)
        check_parallel(config, model, config.sequence_length, config.batch_size, config.micro_batch_size)
    before = TrainingState() if checkpoint is None else foreseen_state(checkpoint)
    # The schedule of a run with a proxy is known when the proxy was read.
    joined = None if before is None or inputs.get("proxy") else join_schedule(config, before, config.all_steps)
    data = _data(config, inputs["tokens"][0].artifact, before, continued=checkpoint is not None)
    return forecast(model, before, joined, [outlook_of(config, joined, data)])


def _data(
    config: TrainConfig, tokens: Artifact | None, before: TrainingState | None, *, continued: bool
) -> JoinedData | None:
    if tokens is None or before is None:
        return None
    from longcat.stages.train.data_join import train_data

    return train_data(config, tokens, before if continued else None)


def forecast(
    model: ModelConfig | None,
    before: TrainingState | None,
    joined: JoinedSchedule | None,
    outlooks: Sequence[Outlook],
) -> dict[str, Any]:
    """Predicted output of a training stage: `steps`, `tokens`, the `plan`, and `model` and `state` if known."""
    rows = [outlook.row() for outlook in outlooks]
    steps, tokens = (sum(row[key] for row in rows) for key in ("steps", "tokens"))
    found: dict[str, Any] = {"steps": steps, "tokens": tokens, "plan": rows}
    if before is not None and joined is not None:
        counts = {"step": before.step + steps, "tokens": before.tokens + tokens}
        state = before.model_copy(update=counts | joined.after())
        for outlook in outlooks:
            unknown = state.model_copy(update={"data": None, "other_data": ()})
            state = outlook.data.state_after(state, outlook.samples) if outlook.data else unknown
        found["state"] = state
    return found | ({"model": model} if model is not None else {})


def preset_of(config: TrainConfig) -> str:
    """Preset of a new model; raises ConfigError if none is given."""
    if config.preset is None:
        raise ConfigError("preset is missing", hint="set one, e.g. preset=demo, or pass a checkpoint to continue")
    return config.preset


def check_model_is_named(config: TrainConfig, *, continued: bool) -> None:
    """Raise ConfigError unless exactly one of a preset and a checkpoint is given, with the options of one of them."""
    if not continued:
        preset_of(config)
        if config.schedule.on_join is not None:
            raise ConfigError(f"schedule.on_join = {config.schedule.on_join} is for a checkpoint", hint="remove it")
    elif config.preset or config.model:
        raise ConfigError("preset and model are for a new model, a checkpoint defines its own", hint="remove them")


def check_vocabulary(vocabulary: int | None, model: ModelConfig) -> None:
    """Raise InputError if a checkpoint has fewer rows than the tokens have ids."""
    if vocabulary is not None and vocabulary > model.vocab_size:
        raise InputError(
            f"the tokens have {vocabulary} ids, the checkpoint has vocab_size = {model.vocab_size}",
            hint="pack the documents with the tokenizer of the checkpoint",
        )


def check_length(sequence_length: int, model: ModelConfig) -> None:
    """Raise ConfigError if sequences are longer than the model's context."""
    if sequence_length > model.max_position_embeddings:
        raise ConfigError(
            f"sequence_length = {sequence_length} exceeds the model's max_position_embeddings = "
            f"{model.max_position_embeddings}",
            hint="lower it, set model.max_position_embeddings for a new model, or extend the checkpoint",
        )


def check_options(options: TrainingOptions, model: ModelConfig) -> None:
    """Raise ConfigError if the options for load balance do not fit the model."""
    try:
        controller = controller_of(options, model)
        if options.balance_loss.enabled:
            expert_groups(options.balance_loss, controller.experts)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_parallel(
    options: TrainingOptions, model: ModelConfig, length: int, batch_size: int, micro_batch_size: int | None
) -> None:
    """Raise ConfigError if the degrees of parallelism do not fit the processes, the model or the batch."""
    sizes = degrees(options.parallel, options.world_size)
    if options.world_size > 1:
        check_fits(
            options.parallel,
            sizes,
            model,
            sequence_length=length,
            batch_size=batch_size,
            micro_batch_size=micro_batch(batch_size, micro_batch_size, sizes),
        )


def micro_batch(batch_size: int, micro_batch_size: int | None, sizes: Degrees) -> int:
    """Sequences per forward pass; by default all of a process, or one with pipeline parallelism."""
    if micro_batch_size is not None:
        return min(batch_size, micro_batch_size)
    return 1 if sizes.pipeline > 1 else max(1, batch_size // sizes.data)
