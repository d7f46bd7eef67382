"""Body of stage `extend`: training phases with increasing sequence length."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.stage import Context, Result
from longcat.stages.extend.check import check_start
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.extend.data import phase_data, phases_data
from longcat.stages.extend.outlook import outlooks
from longcat.stages.extend.step import config_of_phase, model_of_phase
from longcat.stages.formats.checkpoint import Start, check_same_tokenizer, read_model, write_checkpoint
from longcat.stages.formats.training_state import TrainingState, read_state
from longcat.stages.train.check import check_options, micro_batch, with_kinds_of
from longcat.stages.train.checkpoints.save_files import keep_saves
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.joins.data import JoinedData
from longcat.stages.train.joins.schedule import JoinedSchedule, join_schedule
from longcat.stages.train.optim.kinds import initial_std
from longcat.stages.train.parallel.config import check_fits
from longcat.stages.train.parallel.control import control
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.parallel.placement import join, spread
from longcat.stages.train.run import (
    read_validation,
    start_of,
    state_after,
    tell,
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
        model = read_model(checkpoint)
        check_options(config, model.config)
        check_start(config, state)
        by_kind = told_kinds(context, config, state.width_scale, model.config)
        std = initial_std(model.config.initializer_range, config.kinds, state.width_scale)
        configs = _configs(config, model.config)
        start = start_of(config, checkpoint)
        parallel = join(config)
        joined = join_schedule(config, state, config.all_steps)
        rows = _announced(context, state, joined)
        plans = _plans(context, state, joined, parallel)
        done: list[Trained] = []
        for phase, its_config, planned in zip(config.phases_left, configs, plans, strict=True):
            data = phase_data(config, phase, tokens, state)
            plan = replace(planned, data_start=data.first)
            model, start = model_of_phase(model, its_config, start, config.seed, std, context.logger)
            history = partial(state_after, state, plan, data, config)
            trained = _train_phase(context, plan, parallel, model, start, data, history)
            model, start = trained.whole()
            done.append(trained)
            state = history(plan.steps, trained.samples_skipped, start.balance_coefficient)
        if control().leads:
            write_checkpoint(context.output, model, start, state, tokens)
            write_metrics(context.output, *done)
            keep_saves(context.work, context.output, config.keep_every)
        return _result(configs, plans, rows, done, by_kind)


def _configs(config: ExtendConfig, model: ModelConfig) -> list[ModelConfig]:
    """Configuration of the model in every phase."""
    found = []
    for number, phase in enumerate(config.phases_left, start=config.first_phase):
        model = config_of_phase(model, phase, number)
        found.append(model)
    return found


def _announced(context: Context[ExtendConfig], state: TrainingState, joined: JoinedSchedule) -> list[dict[str, Any]]:
    """Log what every phase will do, before hours of training; figures for the metrics.

    Raises:
        InputError: as `phase_data`.
    """
    config, tokens = context.config, context.input("tokens")
    rows = []
    for outlook in outlooks(config, joined, list(phases_data(config, tokens, state))):
        assert outlook.data is not None  # noqa: S101  it was just opened
        main, long = outlook.data.main, outlook.data.long
        packing = {"packing": told_packing(main, context)}
        if long is not None:
            least = f"documents of {long.at.min_document_tokens:,} tokens or more"
            packing["packing_of_long_documents"] = told_packing(long, context, least)
        tell(outlook, context)
        rows.append(packing | {"plan": outlook.row()})
    return rows


def _train_phase(
    context: Context[ExtendConfig],
    plan: TrainingPlan,
    parallel: Parallel,
    model: LongcatFlash,
    start: Start,
    data: JoinedData,
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
    return run_training(plan, context.config, held, start, data.source, validation, context, history)


def _plans(
    context: Context[ExtendConfig], state: TrainingState, joined: JoinedSchedule, parallel: Parallel
) -> list[TrainingPlan]:
    """One plan per phase, without the start of its data; each starts where the previous one ends."""
    config = context.config
    position = joined.position
    counters = Counters(state.step, state.tokens, state.samples)
    plans = []
    for number, phase in enumerate(config.phases_left, start=config.first_phase):
        plan = TrainingPlan(
            label=f"extending to {phase.sequence_length}",
            work=context.work / f"phase-{number + 1}",
            steps=phase.step_count,
            sequence_length=phase.sequence_length,
            batch_size=phase.batch_size,
            micro_batch_size=micro_batch(phase.batch_size, phase.micro_batch_size, parallel.sizes),
            schedule=joined.schedule,
            schedule_start=position,
            data_start=0,
            before=counters,
            width_scale=state.width_scale,
            first_step=config.resumed.steps + counters.step - state.step,
            first_token=config.resumed.tokens + counters.tokens - state.tokens,
            shown_before=config.steps_of_first if number == config.first_phase else 0,
        )
        plans.append(plan)
        position += plan.steps
        counters = plan.counters(plan.steps)
    return plans


def _result(
    configs: list[ModelConfig],
    plans: list[TrainingPlan],
    rows: list[dict[str, Any]],
    done: list[Trained],
    by_kind: dict[str, Any],
) -> Result:
    phases = []
    for model, plan, row, trained in zip(configs, plans, rows, done, strict=True):
        figures = {
            "sequence_length": plan.sequence_length,
            "rope_theta": model.rope_theta,
            "train_loss": trained.train_loss,
            "active_experts": trained.active_experts,
            **row,
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
        performance={plan.work.name: trained.performance for plan, trained in zip(plans, done, strict=True)},
    )
