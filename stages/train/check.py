"""Checks of a training before it runs, from its configuration and the known properties of its inputs; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from longcat.model.config import ModelConfig
from longcat.pipeline.config import identity_values
from longcat.pipeline.errors import ConfigError, InputError
from longcat.stages.formats.architecture import architecture_of, preset_architecture
from longcat.stages.formats.planned_vocabulary import vocabulary_of
from longcat.stages.formats.training_state import TrainingState, foreseen_state
from longcat.stages.train.config import TrainConfig, TrainingOptions
from longcat.stages.train.embeddings.share import check_share
from longcat.stages.train.joins.outlook import Outlook, outlook_of
from longcat.stages.train.joins.schedule import JoinedSchedule, join_schedule
from longcat.stages.train.load_balance.controller import controller_of
from longcat.stages.train.optim.kinds import table
from longcat.stages.train.parallel.config import Degrees, check_fits, degrees
from longcat.stages.train.sparse_balance.check import check_balance
from longcat.stages.train.stability.config import expert_groups

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.plans import PlannedInput

Inputs = Mapping[str, "tuple[PlannedInput, ...]"]
Options = TypeVar("Options", bound=TrainingOptions)


def foresee_training(config: TrainConfig, inputs: Inputs) -> dict[str, Any]:
    """The check of stage `train`: the model, steps and tokens of the run.

    Raises:
        ConfigError: the configuration names no model, does not fit the model, or the learning rate would jump.
        InputError: the inputs exclude each other.
    """
    checkpoint = next(iter(inputs.get("checkpoint", ())), None)
    vocabulary = vocabulary_of(inputs["tokens"][0])
    check_model_is_named(config, continued=checkpoint is not None)
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
    if checkpoint is not None:
        config = with_kinds_of(before, config)
    if inputs.get("proxy"):
        config, before = _foresee_transfer(config, inputs, model, continued=checkpoint is not None)
        model = preset_architecture(preset_of(config), config.model, vocabulary)
    joined = None if before is None else join_schedule(config, before, config.all_steps)
    tokens = inputs["tokens"][0].artifact
    outlook = _outlook(config, joined, tokens, before, continued=checkpoint is not None)
    return forecast(model, config, before, joined, [outlook]) | _warned(model, tokens)


def _warned(model: ModelConfig | None, tokens: Artifact | None) -> dict[str, list[str]]:
    """`warnings` on what is likely to go wrong; nothing without n-gram tables, whose count needs torch."""
    if model is None or model.ngram_tables is None or tokens is None:
        return {}
    from longcat.stages.formats.windows import open_tokens
    from longcat.stages.train.embeddings.collisions import told_collisions

    return {"warnings": told_collisions(model, open_tokens(tokens.path, "train"))}


def _outlook(
    config: TrainConfig,
    joined: JoinedSchedule | None,
    tokens: Artifact | None,
    before: TrainingState | None,
    *,
    continued: bool,
) -> Outlook:
    if tokens is None or before is None:
        return outlook_of(config, joined, None)
    from longcat.stages.train.joins.data import train_data

    try:
        return outlook_of(config, joined, train_data(config, tokens, before if continued else None))
    except InputError as error:
        return outlook_of(config, joined, None, error.what)


def with_kinds_of(before: TrainingState | None, options: Options) -> Options:
    """Options of a run from a checkpoint, with its values by kind where none are given; `before`: None if not known.

    Raises:
        ConfigError: an initial deviation is given.
    """
    return options.model_copy(update={"kinds": options.kinds.after({} if before is None else before.kinds)})


def _foresee_transfer(
    config: TrainConfig, inputs: Inputs, model: ModelConfig | None, *, continued: bool
) -> tuple[TrainConfig, TrainingState | None]:
    """Configuration with the values of the proxy, and the state before training, with its width; None: not known."""
    from longcat.stages.train.optim.transfer import check_new, foreseen_proxy, own_settings, transfer

    check_new(continued=continued)
    own_settings(config)
    proxy = foreseen_proxy(inputs["proxy"][0])
    if proxy is None or model is None:
        return config, None
    found = transfer(config, model, proxy)
    return found.config, TrainingState(width_scale=found.scale)


def forecast(
    model: ModelConfig | None,
    options: TrainingOptions,
    before: TrainingState | None,
    joined: JoinedSchedule | None,
    outlooks: Sequence[Outlook],
) -> dict[str, Any]:
    """Predicted output of a training stage: `steps`, `tokens`, `plan`, and `model`, `state` and `by_kind` if known.

    Raises:
        ConfigError: values by kind do not fit the checkpoint or the model.
    """
    rows = [outlook.row() for outlook in outlooks]
    steps, tokens = (sum(row[key] for row in rows) for key in ("steps", "tokens"))
    found: dict[str, Any] = {"steps": steps, "tokens": tokens, "plan": rows}
    if before is not None and joined is not None:
        after = {"step": before.step + steps, "tokens": before.tokens + tokens, "kinds": options.kinds.given()}
        after |= {"config": identity_values(options), **joined.after()}
        state = before.model_copy(update=after)
        for outlook in outlooks:
            unknown = state.model_copy(update={"data": None, "other_data": ()})
            state = outlook.data.state_after(state, outlook.samples) if outlook.data else unknown
        found["state"] = state
        if model is not None and (by_kind := table_by_kind(options, before.width_scale, model)):
            found["by_kind"] = by_kind
    return found | ({"model": model} if model is not None else {})


def table_by_kind(
    options: TrainingOptions, scale: float, model: ModelConfig, *, always: bool = False
) -> list[dict[str, Any]]:
    """Values by kind of parameter (`stages.train.optim.kinds.table`); none, unless `always`, if none is set or scaled.

    Raises:
        ConfigError: a kind has values, but the model has no parameter of it, or the optimizer has no rule for s.
    """
    options.kinds.check_fits(model)
    options.optimizer.check_width(scale)
    if scale == 1 and not options.kinds.given() and not always:
        return []
    return table(
        options.kinds,
        scale,
        base_std=model.initializer_range,
        learning_rate=options.learning_rate,
        base_decay=options.optimizer.weight_decay,
        update=options.optimizer.hidden_update,
    )


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
        if config.resumed.steps:
            raise ConfigError("resumed is for a run that goes on from a save", hint="--resume-from RUN@STEP sets it")
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
    """Raise ConfigError if the options for load balance, weight rescaling or n-gram tables do not fit the model."""
    check_share(options.ngram_share, model)
    if options.optimizer.weight_rescaling.enabled:
        _check_rescaling(model)
    try:
        controller = controller_of(options, model)
        if options.balance_loss.enabled:
            expert_groups(options.balance_loss, controller.experts)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_rescaling(model: ModelConfig) -> None:
    mtp = [model.mixer(model.mtp_slot)] if model.num_nextn_predict_layers else []
    for spec in (*model.mixers, *mtp) if model.attention is not None else ():
        if not spec.mixer.rescales:
            raise ConfigError(
                f"optimizer.weight_rescaling: attention {spec.kind!r} has no matrices whose scales may be exchanged",
                hint="remove optimizer.weight_rescaling, or train a model with attention mla",
            )


def check_parallel(
    options: TrainingOptions, model: ModelConfig, length: int, batch_size: int, micro_batch_size: int | None
) -> None:
    """Raise ConfigError if parallelism or the balance does not fit the processes, the model or the batch."""
    check_balance(options, model, batch_size)
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
