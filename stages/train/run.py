"""What stage `train` does around the training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from longcat.model.config import ModelConfig
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import identity_values
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.stage import Context, Result
from longcat.stages.train.balance import controller_of
from longcat.stages.train.checkpoint import (
    METRICS_FILE,
    DataPosition,
    TrainingState,
    check_same_tokenizer,
    new_architecture,
    parameter_count,
    read_model_config,
    read_start,
    read_state,
    write_checkpoint,
)
from longcat.stages.train.config import TrainConfig, TrainingOptions, step_count
from longcat.stages.train.group import control
from longcat.stages.train.loader import open_tokens, training_windows, validation_windows
from longcat.stages.train.metrics import unigram_loss
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.config import check_fits
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.plan import Counters, Plan, Start, Trained, Validation
from longcat.stages.train.routing import Balance
from longcat.stages.train.runtime import reproducible
from longcat.stages.train.schedule import Schedule
from longcat.stages.train.trainer import run_training
from longcat.stages.train.transfer import Transfer, check_new, differences, initial_std, read_proxy, transfer
from longcat.stages.train.weights import checkpoint_weights, join, new_weights


def train_checkpoint(context: Context[TrainConfig]) -> Result:
    """Run stage `train`; see `stages.train`."""
    config, tokens, checkpoint = context.config, context.input("tokens"), context.optional("checkpoint")
    with reproducible(config.threads):
        state = read_state(checkpoint)
        data = training_windows(
            tokens.path,
            sequence_length=config.sequence_length,
            seed=config.seed,
            min_document_tokens=config.min_document_tokens,
        )
        check_fills_a_batch(data.windows_per_epoch, config.sequence_length, config.batch_size, tokens)
        config, scale, found = _transferred(context, state)
        held = _held(config, tokens, checkpoint, scale)
        order = DataPosition(
            tokens=tokens.id,
            seed=config.seed,
            sequence_length=config.sequence_length,
            min_document_tokens=config.min_document_tokens,
        )
        plan = _plan(config, state, order, context.work, scale, held.parallel)
        validation = Validation(
            *validation_windows(
                open_tokens(tokens.path, "validation"), config.sequence_length, config.evaluation.windows
            )
        )
        trained = run_training(plan, config, held, start_of(config, checkpoint), data, validation, context)
        if control().leads:
            model, end = trained.whole()
            after = state_after(state, plan, order, config, trained.samples_skipped, end)
            write_checkpoint(context.output, model, end, after, tokens)
            write_metrics(context.output, trained)
        return Result(
            counts=counts_of(plan) | {"parameters": parameter_count(held.config)},
            metrics=metrics_of(trained, held.config, tokens, validation) | (found.metrics() if found else {}),
            performance=trained.performance,
        )


def read_validation(tokens: Artifact, sequence_length: int, windows: int) -> Validation:
    """The validation windows of a tokens artifact."""
    return Validation(*validation_windows(open_tokens(tokens.path, "validation"), sequence_length, windows))


def _transferred(context: Context[TrainConfig], state: TrainingState) -> tuple[TrainConfig, float, Transfer | None]:
    """The configuration with what a proxy hands on, the width scale s, and the transfer if there is a proxy."""
    config, proxy = context.config, context.optional("proxy")
    if proxy is None:
        return config, state.width_scale, None
    check_new(context.optional("checkpoint"))
    target = new_architecture(_preset(config), config.model, context.input("tokens"))
    found = transfer(config, target, read_proxy(proxy))
    for sentence in differences(found.config, target, found.proxy):
        context.logger.warning("transfer: %s", sentence)
    context.logger.info("transfer from %s, %g times as wide:", proxy.id, found.scale)
    for row in found.table():
        std = "-" if row["initial_std"] is None else f"{row['initial_std']:.4g}"
        context.logger.info("  %-12s std %-9s learning rate %.4g", row["kind"], std, row["learning_rate"])
    return found.config, found.scale, found


def _preset(config: TrainConfig) -> str:
    if config.preset is None:
        raise ConfigError("preset is missing", hint="name one, e.g. preset=demo, or give a checkpoint to continue")
    return config.preset


def _held(config: TrainConfig, tokens: Artifact, checkpoint: Artifact | None, scale: float) -> Distributed:
    """What this process holds of the model to train.

    Raises:
        ConfigError: neither a preset nor a checkpoint is given, or both, or the model cannot do what is asked.
    """
    if checkpoint is not None and (config.preset or config.model):
        raise ConfigError("preset and model are for a new model, the checkpoint brings its own", hint="leave them out")
    if checkpoint is not None:
        check_same_tokenizer(checkpoint, tokens)
        architecture = read_model_config(checkpoint)
    else:
        architecture = new_architecture(_preset(config), config.model, tokens)
    if config.sequence_length > architecture.max_position_embeddings:
        raise ConfigError(
            f"sequence_length = {config.sequence_length} exceeds the model's max_position_embeddings = "
            f"{architecture.max_position_embeddings}",
            hint="lower it, set model.max_position_embeddings for a new model, or extend the checkpoint",
        )
    check_options(config, architecture)
    parallel = join(config)
    if parallel.is_distributed:
        check_fits(
            config.parallel,
            parallel.sizes,
            architecture,
            sequence_length=config.sequence_length,
            batch_size=config.batch_size,
            micro_batch_size=micro_batch(config.batch_size, config.micro_batch_size, parallel),
        )
    if checkpoint is not None:
        return checkpoint_weights(checkpoint, config, parallel)
    return new_weights(architecture, config, parallel, initial_std(architecture.initializer_range, scale))


def check_options(options: TrainingOptions, architecture: ModelConfig) -> None:
    """Raises ConfigError when the options for the balance of the experts do not fit the model."""
    try:
        Balance.of(options.balance_loss, controller_of(options, architecture))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_fills_a_batch(windows: int, sequence_length: int, batch_size: int, tokens: Artifact) -> None:
    """Raises InputError when the tokens hold fewer sequences than one batch."""
    if windows < batch_size:
        raise InputError(
            f"the tokens fill {windows} sequences of {sequence_length} tokens, batch_size is {batch_size}",
            where=f"tokens {tokens.id}",
            hint="lower batch_size or sequence_length, or pack more documents",
        )


def start_of(options: TrainingOptions, checkpoint: Artifact | None) -> Start:
    """What training begins with beside the weights."""
    start = Start({}, {}) if checkpoint is None else read_start(checkpoint)
    return replace(start, moments={}) if options.optimizer.state == "reset" else start


def schedule_start(options: TrainingOptions, state: TrainingState) -> int:
    """The position in the schedule that training begins at."""
    return state.schedule_position if options.schedule.position == "continue" else 0


def micro_batch(batch_size: int, micro_batch_size: int | None, parallel: Parallel) -> int:
    """Sequences a forward pass; all that a process reads, or with a pipeline one at a time, where nothing is said."""
    if micro_batch_size is not None:
        return min(batch_size, micro_batch_size)
    return 1 if parallel.sizes.pipeline > 1 else max(1, batch_size // parallel.sizes.data)


def _plan(
    config: TrainConfig, state: TrainingState, order: DataPosition, work: Path, scale: float, parallel: Parallel
) -> Plan:
    steps = step_count(config.steps, config.token_budget, config.batch_size * config.sequence_length)
    position = schedule_start(config, state)
    return Plan(
        label="training",
        work=work / "training",
        steps=steps,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        micro_batch_size=micro_batch(config.batch_size, config.micro_batch_size, parallel),
        schedule=Schedule.of(config.schedule, config.learning_rate, position + steps),
        schedule_start=position,
        data_start=state.data.start_for(order) if state.data else 0,
        before=Counters(state.step, state.tokens, state.samples),
        width_scale=scale,
    )


def state_after(
    before: TrainingState,
    plan: Plan,
    order: DataPosition,
    config: TrainingOptions,
    samples_skipped: int,
    end: Start,
) -> TrainingState:
    """The training state once `plan` is done."""
    counters = plan.counters(plan.steps)
    position = plan.data_start + plan.steps * plan.batch_size + samples_skipped
    return TrainingState(
        step=counters.step,
        tokens=counters.tokens,
        samples=counters.samples,
        schedule_position=plan.schedule_start + plan.steps,
        data=order.model_copy(update={"position": position}),
        config=identity_values(config),
        growth=before.growth,
        width_scale=plan.width_scale,
        balance_coefficient=end.balance_coefficient,
    )


def counts_of(plan: Plan) -> dict[str, int]:
    """Steps and tokens of this run and in all."""
    counters = plan.counters(plan.steps)
    return {
        "steps": plan.steps,
        "tokens": plan.steps * plan.tokens_per_step,
        "total_steps": counters.step,
        "total_tokens": counters.tokens,
    }


def metrics_of(
    trained: Trained, architecture: ModelConfig, tokens: Artifact, validation: Validation
) -> dict[str, float | list[float]]:
    """The figures of the manifest."""
    last = trained.records[-1]
    metrics: dict[str, float | list[float]] = {
        "train_loss": trained.train_loss,
        "active_experts": trained.active_experts,
    }
    if "validation_loss" in last:
        train = open_tokens(tokens.path, "train")
        metrics["validation_loss"] = last["validation_loss"]
        metrics["unigram_loss"] = unigram_loss(train, validation.targets, architecture.vocab_size)
    return metrics


def write_metrics(output: Path, *stretches: Trained) -> None:
    """Write metrics.jsonl: the lines of every stretch, in order."""
    from longcat.pipeline.files import atomic_write

    atomic_write(output / METRICS_FILE, b"".join(trained.metrics_path.read_bytes() for trained in stretches))
