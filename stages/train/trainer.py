"""Training loop, shared by all training stages, for any number of processes.

A `TrainingPlan` is one phase at one sequence length. Samples, learning rate and counters are closed-form functions of
the steps done and the lines of metrics.jsonl, so a checkpoint holds tensors, the step and a mark in metrics.jsonl, and
a resumed run ends with the same bits as an uninterrupted one.

All processes of a run make the same calls in the same order and the same decisions, since every figure used in a
decision is a sum over all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from longcat.model.transformer import LongcatFlash
from longcat.pipeline.files import append_jsonl
from longcat.pipeline.stage import Context
from longcat.stages.formats.checkpoint import Start
from longcat.stages.formats.metrics import MetricsFile, read_metrics
from longcat.stages.formats.training_state import TrainingState
from longcat.stages.formats.validation_windows import ValidationWindows
from longcat.stages.formats.windows import Batch, WindowSource, batch
from longcat.stages.train.checkpoints.run import Saves
from longcat.stages.train.config import TrainingOptions
from longcat.stages.train.evaluation import Evaluator
from longcat.stages.train.gradients import BatchGradients, Taken
from longcat.stages.train.load_balance.controller import controller_of
from longcat.stages.train.load_balance.expert_load import Balance
from longcat.stages.train.optim.adamw import build_optimizer, load_moments, set_learning_rate
from longcat.stages.train.optim.after_step import StepDone
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.optim.frozen import freeze_all_but, trained_part
from longcat.stages.train.optim.hooks import hooks_of
from longcat.stages.train.optim.precision import ComputeModel
from longcat.stages.train.optim.weight_rescaling import WeightRescaling
from longcat.stages.train.parallel.activation_checkpointing import checkpoint_activations
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.compilation import compile_blocks
from longcat.stages.train.parallel.control import control, stop_everywhere
from longcat.stages.train.parallel.norms import clip_factor, gradient_norm
from longcat.stages.train.prefetch import Prefetcher
from longcat.stages.train.sparse_balance.balancer import RunBalancer
from longcat.stages.train.stability.finite import check_finite
from longcat.stages.train.stability.spikes import Rewound, SpikeGuard, recorded, recorded_all
from longcat.stages.train.training_plan import Trained, TrainingPlan
from longcat.stages.train.watch.half_rate import tell_half_rate
from longcat.stages.train.watch.memory import RunMemory
from longcat.stages.train.watch.watch import Watch, Watched

# Training history after steps of a plan, given the samples that rewinds skipped and the balance coefficient.
History = Callable[[int, int, float | None], TrainingState]


def run_training(
    plan: TrainingPlan,
    options: TrainingOptions,
    held: Distributed,
    start: Start,
    data: WindowSource,
    validation: ValidationWindows,
    context: Context[Any],
    history: History,
) -> Trained:
    """Train the model in place by `plan`, resuming from the newest intact checkpoint in `plan.work`.

    Raises:
        InterruptedRunError: a stop was requested; progress is saved.
        InputError: the data contains an id outside the model's vocabulary.
        DivergedError: the loss or the gradient is no longer finite, or the run has diverged without a possible rewind.
    """
    run = TrainingRun(plan, options, held, start, data, validation, context, history)
    try:
        done = run.resume()
        total = plan.shown_before + plan.steps
        with context.deferred_stop(), context.progress.task(plan.label, total=total, unit="steps") as bar:
            bar.advance(plan.shown_before + done)  # what is done before the first advance does not count for the speed
            while done < plan.steps:
                outcome = run.step(done)
                before, done = done, run.go_back(outcome.rewound) if outcome.rewound else done + 1
                bar.set(**outcome.shown)
                bar.advance(done - before)
                stopping = stop_everywhere(context.stop_requested())
                if stopping or done == plan.steps or run.is_saved(done):
                    run.save(done)
                if stopping:  # a stop during saving is handled after the next step, which is saved too
                    run.saves.wait()
                    context.stop.requested = True  # it may have arrived in another process
                    context.check_stop()
            run.saves.wait()
    finally:
        run.close()
    return run.result()


@dataclass(frozen=True)
class StepOutcome:
    """Result of a step: figures for the progress bar, and the rewind if the run has diverged."""

    shown: dict[str, str]
    rewound: Rewound | None = None


class TrainingRun:
    """Parts of a run: a step, and its checkpoints."""

    def __init__(
        self,
        plan: TrainingPlan,
        options: TrainingOptions,
        held: Distributed,
        start: Start,
        data: WindowSource,
        validation: ValidationWindows,
        context: Context[Any],
        history: History,
    ) -> None:
        self.plan, self.options, self.held, self.data, self.context = plan, options, held, data, context
        self.history = history
        self.memory = RunMemory(plan, options, held)
        if self.memory.line:
            context.logger.info(self.memory.line)
        tell_half_rate(held.dtype, held.parallel.device, context.logger)
        self.compute = ComputeModel(held)
        self.trained_part = trained_part(held.config)
        if self.trained_part is not None:
            freeze_all_but(self.trained_part, self.compute.models)
            context.logger.info("only %s modules of attention are trained", self.trained_part)
        for model in self.compute.models:
            checkpoint_activations(model, options.activation_checkpointing)
            if options.compile:
                compile_blocks(model)
        own = options.optimizer, options.kinds
        self.optimizer = build_optimizer(held, *own, plan.width_scale, dtype=held.dtype)
        start = self._own(start)
        load_moments(held, self.optimizer, start.moments)
        decay = options.optimizer.average_decay
        self.average = None if decay is None else WeightAverage(held, decay, start.average)
        self.controller = controller_of(options, held.config)
        self.rescaling = WeightRescaling.of(options.optimizer.weight_rescaling, held, self.optimizer, self.average)
        self.hooks = hooks_of(held, self.controller, self.average, self.rescaling)
        # Frozen routers have no balance loss; its coefficient is handed on.
        self.balance = None if self.trained_part else Balance.of(options.balance_loss, self.controller)
        self.kept_coefficient = start.balance_coefficient if self.trained_part else None
        if self.balance is not None and start.balance_coefficient is not None:
            self.balance.coefficient.restore({"coefficient": start.balance_coefficient})
        self.gradients = BatchGradients(plan, options, held, self.compute, self.balance)
        self.evaluator = Evaluator(held, self.compute, validation, plan.micro_batch_size)
        keep = options.keep_last, options.keep_every
        self.saves = Saves(plan.work / "checkpoints", *keep, plan.first_step, self._log)
        self.metrics = MetricsFile(plan.work / "metrics.jsonl", writes=control().leads)
        self.share = held.parallel.batch_share(plan.batch_size, plan.micro_batch_size)
        balanced = options.sparse_balance.enabled
        self.balancer = RunBalancer(plan, options, self.gradients, data, context.logger) if balanced else None
        self.batches = Prefetcher(self._batch, plan.batch_size, options.loader_workers)
        self.guard = SpikeGuard(options.stability.spikes)
        self.watch = self._open_watch() if control().leads else None
        self.rewound: Rewound | None = None
        self.steps_timed, self.seconds = 0, 0.0

    def _open_watch(self) -> Watch:
        watched = Watched(
            model=self.held.config,
            device=self.held.parallel.device,
            dtype=self.held.dtype,
            sequence_length=self.plan.sequence_length,
            tokens_per_step=self.plan.tokens_per_step,
            target_active_experts=self.controller.target,
            devices=self.held.parallel.world,
            config=self.options.model_dump(mode="json"),
        )
        return Watch(self.options.watch, watched, self.context.log_path, self.context.logger)

    def _own(self, start: Start) -> Start:
        """Part of `start` for the layers of this process."""
        if self.held.parallel.sizes.pipeline == 1:
            return start
        names = {name for name, _ in self.held.named_parameters()}
        moments = {name: tensor for name, tensor in start.moments.items() if name.rpartition(".")[0] in names}
        average = {name: tensor for name, tensor in start.average.items() if name in names}
        return replace(start, moments=moments, average=average)

    def resume(self) -> int:
        """Load the newest intact checkpoint, if any; returns its step."""
        done = self.saves.newest(self.metrics, self.context.logger)
        if done is None:
            self.metrics.cut(None)
            self._watch_from(0)
            self._begin()
            return 0
        self._load(done)
        first = self.plan.first_step
        self.context.logger.info("resuming from step %d of %d", first + done, first + self.plan.steps)
        return done

    def _begin(self) -> None:
        """Change the initial values of a new model."""
        if self.rescaling is not None and self.plan.before.step == 0:
            self.rescaling.at_start()
            self.compute.refresh()

    def go_back(self, rewound: Rewound) -> int:
        """Load an older checkpoint after a divergence; returns its step."""
        done = rewound.to_step - self.plan.before.step
        self.context.logger.warning(
            "the run has diverged: back from step %d to %d, over %d samples",
            rewound.from_step,
            rewound.to_step,
            rewound.samples_skipped,
        )
        self.saves.drop_after(done)
        self._load(done)
        self.rewound = rewound
        return done

    def _load(self, done: int) -> None:
        saved = self.saves.at(done)
        self.metrics.cut(saved.state["metrics"])
        self.saves.load(saved, self.held, self.optimizer, self.hooks)
        if self.balance is not None:
            self.balance.coefficient.restore(saved.state["balance"])
        if self.balancer is not None:
            self.balancer.coverage.restore(saved.state["sparse_balance"])
        self.compute.refresh()
        control().barrier()  # the leading process has truncated the file that all read now
        self.guard = SpikeGuard(self.options.stability.spikes, read_metrics(self.metrics.path))
        self._watch_from(done)

    def _watch_from(self, done: int) -> None:
        if self.watch is not None:
            self.watch.resume(self.plan.counters(done).step)

    def is_saved(self, done: int) -> bool:
        """Whether the run is saved after `done` steps of this phase; the interval counts the steps of the whole run."""
        step, options = self.plan.first_step + done, self.options
        return step % options.checkpoint_every == 0 or (options.keep_every > 0 and step % options.keep_every == 0)

    def save(self, done: int) -> None:
        """Save; state.json also has what a checkpoint artifact of this step needs."""
        state: dict[str, Any] = {"metrics": self.metrics.mark()}
        coefficient = self.kept_coefficient
        if self.balance is not None:
            state["balance"], coefficient = self.balance.coefficient.state(), self.balance.coefficient.value
        if self.balancer is not None:
            state["sparse_balance"] = self.balancer.coverage.state()
        plan, training = self.plan, self.history(done, self.guard.samples_skipped, coefficient)
        state |= {
            "training": training.model_dump(mode="json"),
            "model": self.held.config.to_dict(),
            "run": {"steps": plan.first_step + done, "tokens": plan.first_token + done * plan.tokens_per_step},
        }
        self.saves.save(done, self.held, self.optimizer, self.hooks, state)

    def close(self) -> None:
        self.saves.close()
        self.batches.close()
        self.metrics.close()
        if self.watch is not None:
            self.watch.close()

    def result(self) -> Trained:
        records, skipped = read_metrics(self.metrics.path), self.guard.samples_skipped
        read = self.saves.whole(self.plan.steps, self.held, self.optimizer, self.average)
        coefficient = self.balance.coefficient.value if self.balance else self.kept_coefficient

        def whole() -> tuple[LongcatFlash, Start]:
            model, end = read()
            return model, replace(end, balance_coefficient=coefficient)

        return Trained(whole, self.metrics.path, records, skipped, self.speed())

    def step(self, done: int) -> StepOutcome:
        """The optimizer step after `done` steps."""
        plan, began = self.plan, time.perf_counter()
        position, counters = plan.schedule_start + done, plan.counters(done + 1)
        coefficient = self.balance.coefficient.value if self.balance else None
        taken, figures = self._take(self._first_sample(done), counters.step)
        parameters = [parameter for _, parameter in self.held.named_parameters()]
        norm = gradient_norm(parameters, self.held.parallel)
        verdict = self.guard.judge(counters.step, taken.figures["loss"], norm)
        if verdict.action == "rewind":
            saves = [plan.before.step + save for save in self.saves.steps()]
            self._drop_gradients()
            rewound = self.guard.rewind(verdict, counters.step, saves, plan.batch_size)
            return StepOutcome({}, rewound)
        rate = plan.schedule.learning_rate(position)
        gain = 0.0 if self.trained_part else self.controller.gain(plan.schedule.progress(position))
        if verdict.action == "take":
            self._check_finite(counters.step, {**taken.figures, "gradient norm": norm})
            self._update(counters.step, rate, gain, norm, taken)
        else:
            self._drop_gradients()
            self.context.logger.warning("step %d is skipped: %s", counters.step, verdict.reason)
        record = {
            "step": counters.step,
            "tokens": counters.tokens,
            "epoch": self.data.epochs(self._first_sample(done) + plan.batch_size),
            **self._terms(taken, norm, skipped=verdict.action == "skip"),
            "learning_rate": rate,
            "balance_gain": gain,
            **({} if coefficient is None else {"balance_coefficient": coefficient}),
            **figures,
            **self._load_figures(taken),
            **self._evaluate(done + 1),
        }
        return self._finish(record, time.perf_counter() - began, taken.attention_flops / plan.tokens_per_step)

    def _take(self, first_sample: int, step: int) -> tuple[Taken, dict[str, float]]:
        """Gradients of the batch that starts at a sample, and figures of the balance between processes, if any."""
        batch = self.batches.get(first_sample)
        if self.balancer is None:
            return self.gradients.take(batch, step), {}
        return self.balancer.take(batch, first_sample, step)

    def _first_sample(self, done: int) -> int:
        """First sample of the batch after `done` steps; a rewind shifts all following batches."""
        skipped = self.guard.samples_skipped if self.rewound is None else self.rewound.samples_skipped
        return self.plan.data_start + done * self.plan.batch_size + skipped

    def _terms(self, taken: Taken, norm: float, *, skipped: bool) -> dict[str, Any]:
        figures = {**taken.figures, "gradient_norm": norm}
        return {name: recorded(value) for name, value in figures.items()} | {"skipped": True} if skipped else figures

    def _load_figures(self, taken: Taken) -> dict[str, Any]:
        tokens = self.plan.tokens_per_step
        figures: dict[str, Any] = {
            "active_experts": taken.load.mean(tokens),
            "active_experts_std": taken.load.spread(tokens),
        }
        if taken.stability is not None:
            figures |= {"expert_load": taken.load.counts_LE.tolist(), "stability": recorded_all(taken.stability)}
        return figures

    def _finish(self, record: dict[str, Any], seconds: float, attention: float) -> StepOutcome:
        """Write a record to metrics.jsonl and the spike guard; `attention`: see `Watch.step`."""
        if self.rewound is not None:
            record["rewound"], self.rewound = self.rewound.record(), None
        self.metrics.append(record)
        self.guard.add(record)
        self.steps_timed, self.seconds = self.steps_timed + 1, self.seconds + seconds
        measured = None if self.balancer is None else self.balancer.imbalance
        return StepOutcome({} if self.watch is None else self.watch.step(record, seconds, attention, measured))

    def _log(self, line: dict[str, Any]) -> None:
        if control().leads:
            append_jsonl(self.context.log_path, line)

    def _batch(self, first_sample: int) -> Batch:
        """This process's rows of the batch; raises InputError for an id outside the vocabulary."""
        first = first_sample + self.share.start
        if self.balancer is None:
            rows = batch(self.data, first, len(self.share))
        else:
            rows = self.balancer.batch(first_sample, self.share)
        rows.check_ids(self.held.config.vocab_size, first)
        return rows

    def _update(self, step: int, rate: float, gain: float, norm: float, taken: Taken) -> None:
        """Update the weights, then call the hooks."""
        self.saves.before_update()
        set_learning_rate(self.optimizer, rate)
        self.compute.update(self.optimizer, clip_factor(norm, self.options.optimizer.gradient_clip))
        done = StepDone(step, rate, gain, taken.load, self.plan.tokens_per_step)
        for hook in self.hooks:
            hook.after_step(done)
        self.compute.refresh()

    def _drop_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)

    def _check_finite(self, step: int, figures: Mapping[str, float]) -> None:
        check_finite(figures, step, self.metrics.path, self.plan.label, self.options)

    def _evaluate(self, done: int) -> dict[str, float]:
        every = self.options.evaluation.every
        due = done == self.plan.steps or (every and done % every == 0)
        if not due or not self.evaluator.count:
            return {}
        losses = {"validation_loss": self.evaluator.loss()}
        if self.average is not None:
            with self.average.applied():
                self.compute.refresh()
                losses["validation_loss_of_average"] = self.evaluator.loss()
            self.compute.refresh()
        self._check_finite(self.plan.counters(done).step, losses)
        return losses

    def speed(self) -> dict[str, float]:
        """Clock-dependent figures of the steps of this process; empty if there were none."""
        if not self.steps_timed:
            return {}
        tokens = self.steps_timed * self.plan.tokens_per_step
        return {
            "tokens_per_second": round(tokens / self.seconds, 1),
            "step_seconds": round(self.seconds / self.steps_timed, 4),
            **self.memory.figures(),
        }
