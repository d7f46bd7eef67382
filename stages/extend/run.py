"""Body of stage `extend`: training phases with increasing sequence length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.stage import Context, Result
from longcat.stages.extend.check import check_start
from longcat.stages.extend.config import ExtendConfig, Phase
from longcat.stages.extend.step import config_of_phase, model_of_phase
from longcat.stages.formats.checkpoint import Start, check_same_tokenizer, read_model, write_checkpoint
from longcat.stages.formats.training_state import DataPosition, TrainingState, read_state
from longcat.stages.formats.training_windows import SOURCES, MixedWindows, training_windows
from longcat.stages.formats.windows import WindowSource, open_tokens
from longcat.stages.train.check import check_options, micro_batch, with_kinds_of
from longcat.stages.train.checkpoints.save_files import keep_saves
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.joins.schedule import join_schedule
from longcat.stages.train.optim.kinds import initial_std
from longcat.stages.train.parallel.config import check_fits
from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.placement import join, spread
from longcat.stages.train.run import (
    check_fills_a_batch,
    read_validation,
    start_of,
    state_after,
    told_kinds,
    told_packing,
    write_metrics,
)
from longcat.stages.train.trainer import History, run_training
from longcat.stages.train.training_plan import Counters, Trained, TrainingPlan


def extend_checkpoint(context: Context[ExtendConfig]) -> Result:
    """Run stage `extend`; see `stages.extend`."""
    tokens, checkpoint = context.input("tokens"), context.input("checkpoint")
    check_same_tokenizer(checkpoint, tokens)
    state = read_state(checkpoint)
    config = with_kinds_of(state, context.config)
    context = replace(context, config=config)
    with reproducible(config.threads):
        # The data of every phase is checked first, so that a lack of long documents is reported before hours of
        # training.
        data = [_data(context, phase) for phase in config.phases]
        model = read_model(checkpoint)
        check_options(config, model.config)
        check_start(config, state)
        by_kind = told_kinds(context, config, state.width_scale, model.config)
        std = initial_std(model.config.initializer_range, config.kinds, state.width_scale)
        configs = _configs(config, model.config)
        start = start_of(config, checkpoint)
        parallel = join(config)
        plans = _plans(context, state, parallel)
        done: list[Trained] = []
        for phase, its_config, own, plan in zip(config.phases, configs, data, plans, strict=True):
            model, start = model_of_phase(model, its_config, start, config.seed, std, context.logger)
            history = partial(state_after, state, plan, _order(config, phase, tokens), config)
            trained = _train_phase(context, plan, parallel, model, start, own.source, history)
            model, start = trained.whole()
            done.append(trained)
        if control().leads:
            after = history(plans[-1].steps, done[-1].samples_skipped, start.balance_coefficient)
            write_checkpoint(context.output, model, start, after, tokens)
            write_metrics(context.output, *done)
            keep_saves(context.work, context.output, config.keep_every)
        return _result(configs, plans, data, done, by_kind)


def _configs(config: ExtendConfig, model: ModelConfig) -> list[ModelConfig]:
    """Configuration of the model in every phase."""
    found = []
    for number, phase in enumerate(config.phases):
        model = config_of_phase(model, phase, number)
        found.append(model)
    return found


def _train_phase(
    context: Context[ExtendConfig],
    plan: TrainingPlan,
    parallel: Parallel,
    model: LongcatFlash,
    start: Start,
    source: WindowSource,
    history: History,
) -> Trained:
    if parallel.is_distributed:
        check_fits(
            context.config.parallel,
            parallel.sizes,
            model.config,
            sequence_length=plan.sequence_length,
            batch_size=plan.batch_size,
            micro_batch_size=plan.micro_batch_size,
        )
    held = spread(model, context.config, parallel)
    validation = read_validation(context.input("tokens"), plan.sequence_length, context.config)
    return run_training(plan, context.config, held, start, source, validation, context, history)


@dataclass(frozen=True)
class _Data:
    """Samples of a phase, and the figures of their packing."""

    source: WindowSource
    packing: dict[str, Any]


def _data(context: Context[ExtendConfig], phase: Phase) -> _Data:
    """All documents, mixed with a fraction of long ones."""
    config, tokens, length = context.config, context.input("tokens"), phase.sequence_length
    options: dict[str, Any] = {
        "sequence_length": length,
        "seed": config.seed,
        "across_documents": config.objective.loss_across_documents,
    }
    everything = training_windows(tokens.path, packing=config.packing, **options)
    check_fills_a_batch(everything.windows_per_epoch, length, phase.batch_size, tokens)
    found = {"packing": told_packing(everything, context)}
    if not config.long_document_share:
        return _Data(everything, found)
    least = phase.min_document_tokens or length
    long = SOURCES[config.packing](open_tokens(tokens.path, "train"), min_document_tokens=least, **options)
    found["packing_of_long_documents"] = told_packing(long, context, f"documents of {least:,} tokens or more")
    return _Data(MixedWindows(everything, long, config.long_document_share), found)


def _order(config: ExtendConfig, phase: Phase, tokens: Artifact) -> DataPosition:
    return DataPosition(
        tokens=tokens.id,
        seed=config.seed,
        sequence_length=phase.sequence_length,
        min_document_tokens=phase.min_document_tokens or phase.sequence_length,
        long_document_fraction=config.long_document_share,
        packing=config.packing,
    )


def _plans(context: Context[ExtendConfig], state: TrainingState, parallel: Parallel) -> list[TrainingPlan]:
    """One plan per phase; each starts where the previous one ends, and all share one schedule."""
    config = context.config
    joined = join_schedule(config, state, config.all_steps)
    position = joined.position
    counters = Counters(state.step, state.tokens, state.samples)
    plans = []
    for number, phase in enumerate(config.phases, start=1):
        order = _order(config, phase, context.input("tokens"))
        plan = TrainingPlan(
            label=f"extending to {phase.sequence_length}",
            work=context.work / f"phase-{number}",
            steps=phase.step_count,
            sequence_length=phase.sequence_length,
            batch_size=phase.batch_size,
            micro_batch_size=micro_batch(phase.batch_size, phase.micro_batch_size, parallel.sizes),
            schedule=joined.schedule,
            schedule_start=position,
            data_start=state.data.start_for(order) if state.data and number == 1 else 0,
            before=counters,
            width_scale=state.width_scale,
            first_step=counters.step - state.step,
            first_token=counters.tokens - state.tokens,
        )
        plans.append(plan)
        position += plan.steps
        counters = plan.counters(plan.steps)
    return plans


def _result(
    configs: list[ModelConfig],
    plans: list[TrainingPlan],
    data: list[_Data],
    done: list[Trained],
    by_kind: dict[str, Any],
) -> Result:
    phases = []
    for model, plan, own, trained in zip(configs, plans, data, done, strict=True):
        figures = {
            "sequence_length": plan.sequence_length,
            "rope_theta": model.rope_theta,
            "train_loss": trained.train_loss,
            "active_experts": trained.active_experts,
            **own.packing,
        }
        phases.append(figures | {key: value for key, value in trained.records[-1].items() if key == "validation_loss"})
    counters = plans[-1].counters(plans[-1].steps)
    return Result(
        counts={
            "steps": sum(plan.steps for plan in plans),
            "tokens": sum(plan.steps * plan.tokens_per_step for plan in plans),
            "total_steps": counters.step,
            "total_tokens": counters.tokens,
        },
        metrics={"phases": phases} | by_kind,
        performance={f"phase-{number}": trained.performance for number, trained in enumerate(done, start=1)},
    )
