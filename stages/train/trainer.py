"""The training loop, the same for every stage that trains.

A `Plan` is one stretch at one sequence length. Everything in it (which samples, which learning rate, which counters) is
a closed form of the steps done, so a checkpoint holds tensors, that one number and a mark in metrics.jsonl, and a run
that was killed and taken up again ends with the bits of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch

from model.transformer import LongcatFlash
from pipeline.errors import InputError, LongcatError
from pipeline.files import append_jsonl
from pipeline.stage import Context
from stages.train.activation_checkpointing import checkpoint_activations
from stages.train.average import WeightAverage
from stages.train.balance import BiasController, Load
from stages.train.compilation import compile_blocks
from stages.train.config import TrainingOptions
from stages.train.loader import Batch, WindowSource, batch
from stages.train.metrics import MetricsFile, mean_loss, read_metrics
from stages.train.objective import Objective, Rows, Totals
from stages.train.optimizer import build_optimizer, load_moments, moments, set_learning_rate
from stages.train.plan import Plan, Start, Trained, Validation
from stages.train.precision import ComputeModel
from stages.train.prefetch import Prefetcher
from stages.train.runtime import choose_dtype
from stages.train.state import RunCheckpoints, Saved, load_model_tensors, model_tensors


def run_training(
    plan: Plan,
    options: TrainingOptions,
    model: LongcatFlash,
    start: Start,
    data: WindowSource,
    validation: Validation,
    context: Context[Any],
) -> Trained:
    """Train `model` in place by `plan`, going on from the newest whole checkpoint in `plan.work`.

    Raises:
        InterruptedRunError: a stop was asked for; what was done is saved.
        InputError: the data holds an id that the model does not know.
        LongcatError: the loss or the gradient is no longer finite.
    """
    run = Run(plan, options, model, start, data, validation)
    try:
        done = run.resume(context)
        with context.deferred_stop(), context.progress.task(plan.label, total=plan.steps, unit="steps") as bar:
            bar.advance(done)
            while done < plan.steps:
                record, seconds = run.step(done)
                done += 1
                speed = plan.tokens_per_step / seconds
                log = {"event": "step", "step": record["step"], "seconds": seconds, "tokens_per_second": speed}
                append_jsonl(context.log_path, log)
                bar.set(loss=round(record["loss"], 4), tokens_per_second=round(speed))
                bar.advance(1)
                stopping = context.stop_requested()
                if stopping or done == plan.steps or done % options.checkpoint_every == 0:
                    run.save(done)
                if stopping:  # a stop that came while saving waits for the next step, which will be saved too
                    context.check_stop()
    finally:
        run.close()
    return run.result()


class Run:
    """The parts of a run: one step of it, and its checkpoints."""

    def __init__(
        self,
        plan: Plan,
        options: TrainingOptions,
        model: LongcatFlash,
        start: Start,
        data: WindowSource,
        validation: Validation,
    ) -> None:
        self.plan, self.options = plan, options
        self.model, self.data, self.validation = model, data, validation
        self.device = next(model.parameters()).device
        self.compute = ComputeModel(model, choose_dtype(options, self.device))
        checkpoint_activations(self.compute.model, options.activation_checkpointing)
        if options.compile:
            compile_blocks(self.compute.model)
        self.objective = Objective(options.objective, {})
        self.optimizer = build_optimizer(model, options.optimizer)
        load_moments(model, self.optimizer, start.moments)
        decay = options.optimizer.average_decay
        self.average = None if decay is None else WeightAverage(model, decay, start.average)
        self.controller = BiasController.of(
            options.balance,
            experts=model.config.n_routed_experts,
            zero_experts=model.config.zero_expert_num,
            topk=model.config.moe_topk,
        )
        self.checkpoints = RunCheckpoints(plan.work / "checkpoints", options.keep_last)
        self.metrics = MetricsFile(plan.work / "metrics.jsonl")
        self.batches = Prefetcher(self._batch, plan.batch_size, options.loader_workers)
        self.steps_timed, self.seconds = 0, 0.0

    def resume(self, context: Context[Any]) -> int:
        """Load the newest whole checkpoint, if there is one; returns the steps it has done."""

        def usable(saved: Saved) -> bool:
            return self.metrics.matches(saved.state["metrics"])

        saved = self.checkpoints.latest(usable, context.logger.warning)
        if saved is None:
            self.metrics.cut(None)
            return 0
        self.metrics.cut(saved.state["metrics"])
        load_model_tensors(self.model, saved.tensors("model"))
        load_moments(self.model, self.optimizer, saved.tensors("optimizer"))
        if self.average is not None:
            self.average = WeightAverage(self.model, self.average.decay, saved.tensors("average"))
        self.compute.refresh()
        context.logger.info("going on from step %d of %d", saved.step, self.plan.steps)
        return saved.step

    def save(self, done: int) -> None:
        groups = {"model": model_tensors(self.model), "optimizer": moments(self.model, self.optimizer)}
        if self.average is not None:
            groups["average"] = self.average.tensors()
        self.checkpoints.save(done, groups, {"metrics": self.metrics.mark()})

    def close(self) -> None:
        self.batches.close()
        self.metrics.close()

    def result(self) -> Trained:
        average = {} if self.average is None else self.average.tensors()
        return Trained(
            Start(moments(self.model, self.optimizer), average),
            self.metrics.path,
            read_metrics(self.metrics.path),
            0,
            self.speed(),
        )

    def step(self, done: int) -> tuple[dict[str, Any], float]:
        """The optimizer step after `done` steps. Returns its line of metrics.jsonl and the seconds it took."""
        plan, began = self.plan, time.perf_counter()
        position, counters = plan.schedule_start + done, plan.counters(done + 1)
        figures, load = self._gradients(self.batches.get(plan.data_start + done * plan.batch_size), counters.step)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.optimizer.gradient_clip).item()
        self._check_finite(counters.step, {**figures, "gradient norm": norm})
        rate = plan.schedule.learning_rate(position)
        gain = self.controller.gain(plan.schedule.progress(position))
        self._update(counters.step, rate, gain, load)
        seconds = time.perf_counter() - began
        self.steps_timed, self.seconds = self.steps_timed + 1, self.seconds + seconds
        record = {
            "step": counters.step,
            "tokens": counters.tokens,
            **figures,
            "learning_rate": rate,
            "gradient_norm": norm,
            "balance_gain": gain,
            "active_experts": load.mean(plan.tokens_per_step),
            "active_experts_std": load.spread(plan.tokens_per_step),
        }
        self.metrics.append(record | self._evaluate(done + 1))
        return record, seconds

    def _batch(self, first_sample: int) -> Batch:
        """The batch from that sample on; raises InputError for an id that the model has no row for."""
        rows, known = batch(self.data, first_sample, self.plan.batch_size), self.model.config.vocab_size
        if (largest := int(rows.ids.max())) >= known or int(rows.ids.min()) < 0:
            raise InputError(
                f"the data holds the token id {largest}, the model has vocab_size = {known}",
                where=f"sample {first_sample} to {first_sample + self.plan.batch_size - 1}",
                hint="pack the documents with the model's tokenizer",
            )
        return rows

    def _gradients(self, rows: Batch, step: int) -> tuple[dict[str, float], Load]:
        """Gradients of the mean loss over the whole batch; returns its terms and the load of the experts."""
        totals, sums, loads = Totals.of(rows), [], []
        for start in range(0, len(rows.ids), self.plan.micro_batch_size):
            part = Rows.of(rows.rows(start, start + self.plan.micro_batch_size), self.device)
            terms = self.objective(self.compute.model, part, totals, step)
            terms.total.backward()
            self.compute.collect_gradients()
            sums.append(terms.figures)
            loads.append(Load.of(terms.output.routing, self.controller.experts))
        names = list(sums[0])
        values = torch.stack([torch.stack([figures[name].double() for name in names]) for figures in sums]).sum(dim=0)
        return dict(zip(names, values.tolist(), strict=True)), Load.total(loads)

    def _update(self, step: int, rate: float, gain: float, load: Load) -> None:
        """Move weights, their average and the router biases."""
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step - 1)
        self.controller.update(self.model.router_biases(), load.counts_LE, self.plan.tokens_per_step, gain)
        self.compute.refresh()

    def _check_finite(self, step: int, figures: Mapping[str, float]) -> None:
        """Raises LongcatError for the first figure that is NaN or infinite."""
        for name, value in figures.items():
            if math.isfinite(value):
                continue
            records = read_metrics(self.metrics.path)
            last = (
                f"; the last finite loss was {records[-1]['loss']:.4f} at step {records[-1]['step']}" if records else ""
            )
            raise LongcatError(
                f"the {name} is {value} at step {step}{last}",
                where=self.plan.label,
                hint=f"train with a learning_rate below {self.options.learning_rate:g}, more schedule.warmup_steps "
                f"or an optimizer.gradient_clip below {self.options.optimizer.gradient_clip:g}",
            )

    def _evaluate(self, done: int) -> dict[str, float]:
        every = self.options.evaluation.every
        due = done == self.plan.steps or (every and done % every == 0)
        if not due or not len(self.validation.inputs):
            return {}
        losses = {"validation_loss": self._validation_loss()}
        if self.average is not None:
            with self.average.applied():
                self.compute.refresh()
                losses["validation_loss_of_average"] = self._validation_loss()
            self.compute.refresh()
        self._check_finite(self.plan.counters(done).step, losses)
        return losses

    def _validation_loss(self) -> float:
        return mean_loss(
            self.compute.model, self.validation.inputs, self.validation.targets, self.plan.micro_batch_size
        )

    def speed(self) -> dict[str, float]:
        """Clock-dependent figures of the steps that this process did; empty when it did none."""
        if not self.steps_timed:
            return {}
        tokens = self.steps_timed * self.plan.tokens_per_step
        return {
            "tokens_per_second": round(tokens / self.seconds, 1),
            "step_seconds": round(self.seconds / self.steps_timed, 4),
        }
