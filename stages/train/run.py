"""Body of stage `train`, around the training loop."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from longcat.model.config import ModelConfig
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.config import identity_values
from longcat.pipeline.stage import Context, Result
from longcat.stages.formats.checkpoint import (
    METRICS_FILE,
    Start,
    check_same_tokenizer,
    new_architecture,
    parameter_count,
    read_model_config,
    read_start,
    write_checkpoint,
)
from longcat.stages.formats.metrics import unigram_loss
from longcat.stages.formats.training_state import TrainingState, read_state
from longcat.stages.formats.validation_windows import ValidationWindows, validation_windows
from longcat.stages.formats.windows import open_tokens
from longcat.stages.train.check import (
    check_length,
    check_model_is_named,
    check_options,
    micro_batch,
    preset_of,
    table_by_kind,
    with_kinds_of,
)
from longcat.stages.train.checkpoints.save_files import keep_saves
from longcat.stages.train.config import TrainConfig, TrainingOptions
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.embeddings.collisions import told_collisions
from longcat.stages.train.joins.data import JoinedData, JoinedStream, train_data
from longcat.stages.train.joins.outlook import Outlook, outlook_of
from longcat.stages.train.joins.schedule import JoinedSchedule, join_schedule
from longcat.stages.train.optim.kinds import initial_std
from longcat.stages.train.optim.transfer import Transfer, check_new, differences, read_proxy, transfer
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.config import check_fits
from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.placement import checkpoint_weights, join, new_weights
from longcat.stages.train.sparse_balance.check import check_balance
from longcat.stages.train.sparse_balance.profile import LATENCY_FILE
from longcat.stages.train.trainer import run_training
from longcat.stages.train.training_plan import Counters, Trained, TrainingPlan


def train_checkpoint(context: Context[TrainConfig]) -> Result:
    """Run stage `train`; see `stages.train`."""
    config, tokens, checkpoint = context.config, context.input("tokens"), context.optional("checkpoint")
    with reproducible(config.threads):
        state = read_state(checkpoint)
        data = train_data(config, tokens, None if checkpoint is None else state)
        packing = told_packing(data.main, context)
        config, scale, found = _transferred(context, state)
        held = _held(config, tokens, checkpoint, scale)
        told_tables(context, held.config, tokens)
        by_kind = told_kinds(context, config, scale, held.config, always=found is not None)
        joined = join_schedule(config, state, config.all_steps)
        outlook = outlook_of(config, joined, data)
        tell(outlook, context)
        plan = _plan(config, state, joined, data, context.work, scale, held.parallel)
        validation = read_validation(tokens, config.sequence_length, config)
        history = partial(state_after, state, plan, data, config)
        start = start_of(config, checkpoint)
        trained = run_training(plan, config, held, start, data.source, validation, context, history)
        if control().leads:
            model, end = trained.whole()
            after = history(plan.steps, trained.samples_skipped, end.balance_coefficient)
            write_checkpoint(context.output, model, end, after, tokens)
            write_metrics(context.output, trained)
            keep_saves(context.work, context.output, config.keep_every)
        return Result(
            counts=counts_of(plan) | {"parameters": parameter_count(held.config)},
            metrics=metrics_of(trained, held.config, tokens, validation)
            | {"packing": packing, "plan": [outlook.row()]}
            | (found.metrics() if found else {})
            | by_kind,
            performance=trained.performance,
        )


def read_validation(tokens: Artifact, sequence_length: int, options: TrainingOptions) -> ValidationWindows:
    """Validation windows of a tokens artifact, with the document mask of training."""
    return validation_windows(
        open_tokens(tokens.path, "validation"),
        sequence_length,
        options.evaluation.windows,
        document_mask=options.objective.document_mask,
        across_documents=options.objective.loss_across_documents,
    )


def told_tables(context: Context[Any], model: ModelConfig, tokens: Artifact) -> None:
    """Warn of n-gram tables with many collisions on these tokens, in the leading process."""
    if control().leads and model.ngram_tables is not None:
        for sentence in told_collisions(model, open_tokens(tokens.path, "train")):
            context.logger.warning("%s", sentence)


def told_packing(stream: JoinedStream, context: Context[Any], of: str = "") -> dict[str, Any]:
    """Figures of the packing for the metrics, logged before training; `of` names the documents."""
    figures = stream.windows.source.packing()
    context.logger.info("%s%s", of and f"{of}: ", figures.sentence())
    return figures.row()


def tell(outlook: Outlook, context: Context[Any]) -> None:
    """Log what the run will do."""
    for sentence in outlook.sentences():
        context.logger.info("%s", sentence)


def _transferred(context: Context[TrainConfig], state: TrainingState) -> tuple[TrainConfig, float, Transfer | None]:
    """Configuration with transferred values, the width scale s, and the transfer if there is a proxy."""
    config, proxy = context.config, context.optional("proxy")
    if proxy is None:
        if context.optional("checkpoint") is not None:
            config = with_kinds_of(state, config)
        return config, state.width_scale, None
    check_new(continued=context.optional("checkpoint") is not None)
    target = new_architecture(preset_of(config), config.model, context.input("tokens"))
    found = transfer(config, target, read_proxy(proxy))
    for sentence in differences(found.config, target, found.proxy):
        context.logger.warning("transfer: %s", sentence)
    context.logger.info("transfer from %s, %g times as wide", proxy.id, found.scale)
    return found.config, found.scale, found


def told_kinds(
    context: Context[Any], options: TrainingOptions, scale: float, architecture: ModelConfig, *, always: bool = False
) -> dict[str, Any]:
    """Values by kind of parameter for the metrics, logged before training; empty as `table_by_kind`."""
    rows = table_by_kind(options, scale, architecture, always=always)
    for row in rows:
        std = "-" if row["initial_std"] is None else f"{row['initial_std']:.4g}"
        context.logger.info(
            "  %-12s std %-9s learning rate %-9.4g weight decay %.4g",
            *(row["kind"], std, row["learning_rate"], row["weight_decay"]),
        )
    return {"by_kind": rows} if rows else {}


def _held(config: TrainConfig, tokens: Artifact, checkpoint: Artifact | None, scale: float) -> Distributed:
    """This process's part of the model to train.

    Raises:
        ConfigError: neither a preset nor a checkpoint is given, or both, or the options do not fit the model.
    """
    check_model_is_named(config, continued=checkpoint is not None)
    if checkpoint is not None:
        check_same_tokenizer(checkpoint, tokens)
        architecture = read_model_config(checkpoint)
    else:
        architecture = new_architecture(preset_of(config), config.model, tokens)
    check_length(config.sequence_length, architecture)
    check_options(config, architecture)
    check_balance(config, architecture, config.batch_size)
    parallel = join(config)
    if parallel.is_distributed:
        check_fits(
            config.parallel,
            parallel.sizes,
            architecture,
            sequence_length=config.sequence_length,
            batch_size=config.batch_size,
            micro_batch_size=micro_batch(config.batch_size, config.micro_batch_size, parallel.sizes),
        )
    if checkpoint is not None:
        return checkpoint_weights(checkpoint, config, parallel)
    std = initial_std(architecture.initializer_range, config.kinds, scale)
    return new_weights(architecture, config, parallel, std)


def start_of(options: TrainingOptions, checkpoint: Artifact | None) -> Start:
    """Initial training state besides the weights."""
    start = Start({}, {}) if checkpoint is None else read_start(checkpoint)
    return replace(start, moments={}) if options.optimizer.state == "reset" else start


def _plan(
    config: TrainConfig,
    state: TrainingState,
    joined: JoinedSchedule,
    data: JoinedData,
    work: Path,
    scale: float,
    parallel: Parallel,
) -> TrainingPlan:
    return TrainingPlan(
        label="training",
        work=work / "training",
        steps=joined.steps,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        micro_batch_size=micro_batch(config.batch_size, config.micro_batch_size, parallel.sizes),
        schedule=joined.schedule,
        schedule_start=joined.position,
        data_start=data.first,
        before=Counters(state.step, state.tokens, state.samples),
        width_scale=scale,
        first_step=config.resumed.steps,
        first_token=config.resumed.tokens,
        shown_before=config.resumed.steps,
    )


def state_after(
    before: TrainingState,
    plan: TrainingPlan,
    data: JoinedData,
    config: TrainingOptions,
    done: int,
    samples_skipped: int,
    balance_coefficient: float | None,
) -> TrainingState:
    """Training history after `done` steps of `plan`."""
    counters = plan.counters(done)
    samples = done * plan.batch_size + samples_skipped
    schedule_position = plan.schedule_start + done
    return TrainingState(
        step=counters.step,
        tokens=counters.tokens,
        samples=counters.samples,
        schedule_position=schedule_position,
        learning_rate=plan.schedule.learning_rate(schedule_position - 1),
        warmup_from=plan.schedule.start,
        **before.after_reading(*data.after(samples)),
        config=identity_values(config),
        growth=before.growth,
        width_scale=plan.width_scale,
        kinds=config.kinds.given(),
        balance_coefficient=balance_coefficient,
    )


def counts_of(plan: TrainingPlan) -> dict[str, int]:
    """Steps and tokens of this run and in total."""
    counters = plan.counters(plan.steps)
    return {
        "steps": plan.steps,
        "tokens": plan.steps * plan.tokens_per_step,
        "total_steps": counters.step,
        "total_tokens": counters.tokens,
    }


def metrics_of(
    trained: Trained, architecture: ModelConfig, tokens: Artifact, validation: ValidationWindows
) -> dict[str, Any]:
    """Metrics for the manifest."""
    last = trained.records[-1]
    metrics: dict[str, Any] = {
        "train_loss": trained.train_loss,
        "active_experts": trained.active_experts,
    }
    if "validation_loss" in last:
        train = open_tokens(tokens.path, "train")
        metrics["validation_loss"] = last["validation_loss"]
        metrics["unigram_loss"] = unigram_loss(train, validation.targets, architecture.vocab_size)
    return metrics


def write_metrics(output: Path, *stretches: Trained) -> None:
    """Write metrics.jsonl: the lines of all plans, in order; and the latency model of the last plan, if it has one."""
    from longcat.pipeline.files import atomic_write

    atomic_write(output / METRICS_FILE, b"".join(trained.metrics_path.read_bytes() for trained in stretches))
    latency = stretches[-1].metrics_path.with_name(LATENCY_FILE)
    if latency.exists():
        atomic_write(output / "training" / LATENCY_FILE, latency.read_bytes())
