"""What stage `train` does around the training loop."""

from __future__ import annotations

from pathlib import Path

from model.transformer import LongcatFlash
from pipeline.artifact import Artifact
from pipeline.errors import ConfigError
from pipeline.stage import Context, Result
from stages.train.balance import BiasController
from stages.train.checkpoint import (
    METRICS_FILE,
    DataPosition,
    Tensors,
    TrainingState,
    check_same_tokenizer,
    new_architecture,
    new_model,
    parameter_count,
    read_model,
    read_moments,
    read_state,
    write_checkpoint,
)
from stages.train.config import TrainConfig, TrainingOptions, step_count
from stages.train.loader import open_tokens, training_windows, validation_windows
from stages.train.metrics import unigram_loss
from stages.train.runtime import choose_device, reproducible
from stages.train.schedule import Schedule
from stages.train.trainer import Counters, Plan, Trained, Validation, run_training
from stages.train.transfer import Transfer, check_new, differences, initial_std, read_proxy, transfer


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
        config, scale, found = _transferred(context, state)
        model = _model(config, tokens, checkpoint, scale)
        order = DataPosition(
            tokens=tokens.id,
            seed=config.seed,
            sequence_length=config.sequence_length,
            min_document_tokens=config.min_document_tokens,
        )
        plan = _plan(config, state, order, context.work, scale)
        validation = Validation(
            *validation_windows(
                open_tokens(tokens.path, "validation"), config.sequence_length, config.evaluation.windows
            )
        )
        trained = run_training(plan, config, model, start_moments(config, checkpoint), data, validation, context)
        after = state_after(state, plan, order, config)
        write_checkpoint(context.output, model, trained.moments, after, tokens)
        write_metrics(context.output, trained)
        return Result(
            counts=counts_of(plan) | {"parameters": parameter_count(model)},
            metrics=metrics_of(trained, model, tokens, validation) | (found.metrics() if found else {}),
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


def _model(config: TrainConfig, tokens: Artifact, checkpoint: Artifact | None, scale: float) -> LongcatFlash:
    """The model to train, on its device.

    Raises:
        ConfigError: neither a preset nor a checkpoint is given, or both, or the model cannot do what is asked.
    """
    device = choose_device(config)
    if checkpoint is not None and (config.preset or config.model):
        raise ConfigError("preset and model are for a new model, the checkpoint brings its own", hint="leave them out")
    if checkpoint is not None:
        check_same_tokenizer(checkpoint, tokens)
        model = read_model(checkpoint, device)
    else:
        architecture = new_architecture(_preset(config), config.model, tokens)
        model = new_model(architecture, config.seed, device, initial_std(architecture.initializer_range, scale))
    if config.sequence_length > model.config.max_position_embeddings:
        raise ConfigError(
            f"sequence_length = {config.sequence_length} exceeds the model's max_position_embeddings = "
            f"{model.config.max_position_embeddings}",
            hint="lower it, set model.max_position_embeddings for a new model, or extend the checkpoint",
        )
    check_controller(config, model)
    return model


def check_controller(options: TrainingOptions, model: LongcatFlash) -> None:
    """Raises ConfigError when the balance options do not fit the model."""
    architecture = model.config
    try:
        BiasController.of(
            options.balance,
            experts=architecture.n_routed_experts,
            zero_experts=architecture.zero_expert_num,
            topk=architecture.moe_topk,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from None


def start_moments(options: TrainingOptions, checkpoint: Artifact | None) -> Tensors:
    """The optimizer state that training begins with."""
    if checkpoint is None or options.optimizer.state == "reset":
        return {}
    return read_moments(checkpoint)


def schedule_start(options: TrainingOptions, state: TrainingState) -> int:
    """The position in the schedule that training begins at."""
    return state.schedule_position if options.schedule.position == "continue" else 0


def micro_batch(batch_size: int, micro_batch_size: int | None) -> int:
    """Sequences a forward pass."""
    return min(batch_size, micro_batch_size or batch_size)


def _plan(config: TrainConfig, state: TrainingState, order: DataPosition, work: Path, scale: float) -> Plan:
    steps = step_count(config.steps, config.token_budget, config.batch_size * config.sequence_length)
    position = schedule_start(config, state)
    return Plan(
        label="training",
        work=work / "training",
        steps=steps,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        micro_batch_size=micro_batch(config.batch_size, config.micro_batch_size),
        schedule=Schedule.of(config.schedule, config.learning_rate, position + steps),
        schedule_start=position,
        data_start=state.data.start_for(order) if state.data else 0,
        before=Counters(state.step, state.tokens, state.samples),
        width_scale=scale,
    )


def state_after(before: TrainingState, plan: Plan, order: DataPosition, config: TrainingOptions) -> TrainingState:
    """The training state once `plan` is done."""
    counters = plan.counters(plan.steps)
    return TrainingState(
        step=counters.step,
        tokens=counters.tokens,
        samples=counters.samples,
        schedule_position=plan.schedule_start + plan.steps,
        data=order.model_copy(update={"position": plan.data_start + plan.steps * plan.batch_size}),
        config=config.model_dump(mode="json"),
        growth=before.growth,
        width_scale=plan.width_scale,
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
    trained: Trained, model: LongcatFlash, tokens: Artifact, validation: Validation
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
        metrics["unigram_loss"] = unigram_loss(train, validation.targets, model.config.vocab_size)
    return metrics


def write_metrics(output: Path, *stretches: Trained) -> None:
    """Write metrics.jsonl: the lines of every stretch, in order."""
    from pipeline.files import atomic_write

    atomic_write(output / METRICS_FILE, b"".join(trained.metrics_path.read_bytes() for trained in stretches))
