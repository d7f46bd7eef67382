"""What can be said of a training before it runs, from its configuration and what is known of its inputs; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.model.config import ModelConfig
from longcat.pipeline.errors import ConfigError, InputError
from longcat.stages.data.tokenizer.foresight import vocabulary_of
from longcat.stages.train.architecture import architecture_of, changed_config, preset_architecture
from longcat.stages.train.balance import controller_of
from longcat.stages.train.config import TrainConfig, TrainingOptions, step_count
from longcat.stages.train.parallel.config import Degrees, check_fits, degrees
from longcat.stages.train.stability.config import expert_groups

if TYPE_CHECKING:
    from longcat.pipeline.runner import PlannedInput
    from longcat.stages.extend import ExtendConfig

Inputs = Mapping[str, "tuple[PlannedInput, ...]"]


def foresee_training(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `train`: the model, steps and tokens of the run.

    Raises:
        ConfigError: the configuration names no model, or one that cannot be trained as it says.
        InputError: the inputs exclude each other.
    """
    checkpoint = next(iter(inputs.get("checkpoint", ())), None)
    vocabulary = vocabulary_of(inputs["tokens"][0])
    check_model_is_named(config, continued=checkpoint is not None)
    if inputs.get("proxy"):
        from longcat.stages.train.transfer import check_new, own_settings

        check_new(continued=checkpoint is not None)
        own_settings(config)
    model: ModelConfig | None
    if checkpoint is None:
        model = preset_architecture(preset_of(config), config.model, vocabulary)
    else:
        model = architecture_of(checkpoint)
        if model is not None:
            check_vocabulary(vocabulary, model)
    steps = step_count(config.steps, config.token_budget, config.batch_size * config.sequence_length)
    if model is not None:
        check_length(config.sequence_length, model)
        check_options(config, model)
        check_parallel(config, model, config.sequence_length, config.batch_size, config.micro_batch_size)
    return forecast(model, steps, steps * config.batch_size * config.sequence_length)


def foresee_extension(config: ExtendConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `extend`; raises as `foresee_training`."""
    steps = sum(phase.step_count for phase in config.phases)
    tokens = sum(phase.step_count * phase.batch_size * phase.sequence_length for phase in config.phases)
    model = architecture_of(inputs["checkpoint"][0])
    if model is None:
        return forecast(None, steps, tokens)
    check_vocabulary(vocabulary_of(inputs["tokens"][0]), model)
    check_options(config, model)
    for phase in config.phases:
        length = max(phase.sequence_length, model.max_position_embeddings)
        model = changed_config(model, {"rope_theta": phase.rope_theta, "max_position_embeddings": length}, "phases")
        check_parallel(config, model, phase.sequence_length, phase.batch_size, phase.micro_batch_size)
    return forecast(model, steps, tokens)


def forecast(model: ModelConfig | None, steps: int, tokens: int) -> dict[str, Any]:
    """What a training stage foretells: `steps`, `tokens`, and `model` where it is known."""
    return {"steps": steps, "tokens": tokens} | ({"model": model} if model is not None else {})


def preset_of(config: TrainConfig) -> str:
    """The preset of a new model; raises ConfigError where none is given."""
    if config.preset is None:
        raise ConfigError("preset is missing", hint="name one, e.g. preset=demo, or give a checkpoint to continue")
    return config.preset


def check_model_is_named(config: TrainConfig, *, continued: bool) -> None:
    """Raises ConfigError unless exactly one of a preset and a checkpoint says what model it is."""
    if not continued:
        preset_of(config)
    elif config.preset or config.model:
        raise ConfigError("preset and model are for a new model, the checkpoint brings its own", hint="leave them out")


def check_vocabulary(vocabulary: int | None, model: ModelConfig) -> None:
    """Raises InputError when a checkpoint has fewer rows than the tokens have ids."""
    if vocabulary is not None and vocabulary > model.vocab_size:
        raise InputError(
            f"the tokens have {vocabulary} ids, the checkpoint has vocab_size = {model.vocab_size}",
            hint="pack the documents with the tokenizer of the checkpoint",
        )


def check_length(sequence_length: int, model: ModelConfig) -> None:
    """Raises ConfigError when sequences are longer than the model's context."""
    if sequence_length > model.max_position_embeddings:
        raise ConfigError(
            f"sequence_length = {sequence_length} exceeds the model's max_position_embeddings = "
            f"{model.max_position_embeddings}",
            hint="lower it, set model.max_position_embeddings for a new model, or extend the checkpoint",
        )


def check_options(options: TrainingOptions, model: ModelConfig) -> None:
    """Raises ConfigError when the options for the balance of the experts do not fit the model."""
    try:
        controller = controller_of(options, model)
        if options.balance_loss.enabled:
            expert_groups(options.balance_loss, controller.experts)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_parallel(
    options: TrainingOptions, model: ModelConfig, length: int, batch_size: int, micro_batch_size: int | None
) -> None:
    """Raises ConfigError when the degrees of parallelism fit neither the processes, the model nor the batch."""
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
    """Sequences a forward pass; all that a process reads, or with a pipeline one at a time, where nothing is said."""
    if micro_batch_size is not None:
        return min(batch_size, micro_batch_size)
    return 1 if sizes.pipeline > 1 else max(1, batch_size // sizes.data)
