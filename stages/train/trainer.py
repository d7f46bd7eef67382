"""The training loop, the same for every stage that trains.

A `Plan` is one stretch at one sequence length. Everything in it (which samples, which learning rate, which counters) is
a closed form of the steps done, so a checkpoint holds tensors, that one number and a mark in metrics.jsonl, and a run
that was killed and taken up again ends with the bits of one that was not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.transformer import LongcatFlash
from pipeline.files import append_jsonl
from pipeline.stage import Context
from stages.train.balance import BiasController
from stages.train.config import TrainingOptions
from stages.train.errors import DivergedError
from stages.train.loader import Ids, WindowSource, batch
from stages.train.metrics import MetricsFile, mean_loss, read_metrics
from stages.train.optimizer import build_optimizer, load_moments, moments, set_learning_rate
from stages.train.precision import ComputeModel
from stages.train.runtime import choose_dtype
from stages.train.schedule import Schedule
from stages.train.state import RunCheckpoints, Saved, Tensors, load_model_tensors, model_tensors
from stages.train.transfer import learning_rate_factors

RECENT_STEPS = 20


@dataclass(frozen=True)
class Counters:
    """What a model has seen since it was initialised: optimizer steps, tokens, samples."""

    step: int = 0
    tokens: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Plan:
    """One stretch of training. `work` is where it keeps its checkpoints; `*_start` is where step 0 of it stands.

    `width_scale` is the s by which learning rates differ among kinds of parameters (`stages.train.transfer`).
    """

    label: str
    work: Path
    steps: int
    sequence_length: int
    batch_size: int
    micro_batch_size: int
    schedule: Schedule
    schedule_start: int
    data_start: int
    before: Counters
    width_scale: float = 1.0

    @property
    def tokens_per_step(self) -> int:
        return self.batch_size * self.sequence_length

    def counters(self, done: int) -> Counters:
        """The counters after `done` steps of this plan."""
        return Counters(
            self.before.step + done,
            self.before.tokens + done * self.tokens_per_step,
            self.before.samples + done * self.batch_size,
        )


@dataclass(frozen=True)
class Validation:
    """Windows [n, L] whose mean loss is the validation loss; n may be 0."""

    inputs: Ids
    targets: Ids


@dataclass(frozen=True)
class Trained:
    """A finished stretch: the optimizer's moments, the records of metrics.jsonl, and the speed of this process."""

    moments: Tensors
    metrics_path: Path
    records: list[dict[str, Any]]
    performance: dict[str, float]

    @property
    def train_loss(self) -> float:
        """Mean loss of the last steps."""
        return _mean([record["loss"] for record in self.records[-RECENT_STEPS:]])

    @property
    def active_experts(self) -> list[float]:
        """Mean number of FFN experts a token used in the last steps, layer by layer."""
        layers = zip(*(record["active_experts"] for record in self.records[-RECENT_STEPS:]), strict=True)
        return [_mean(layer) for layer in layers]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def run_training(
    plan: Plan,
    options: TrainingOptions,
    model: LongcatFlash,
    start: Tensors,
    data: WindowSource,
    validation: Validation,
    context: Context[Any],
) -> Trained:
    """Train `model` in place by `plan`, going on from the newest whole checkpoint in `plan.work`.

    `start` are the optimizer moments to begin with (empty: none).

    Raises:
        InterruptedRunError: a stop was asked for; what was done is saved.
        DivergedError: the loss or the gradient is no longer finite.
    """
    trainer = _Trainer(plan, options, model, start, data, validation)
    try:
        done = trainer.resume(context)
        with context.deferred_stop(), context.progress.task(plan.label, total=plan.steps, unit="steps") as bar:
            bar.advance(done)
            while done < plan.steps:
                record, seconds = trainer.step(done)
                done += 1
                speed = plan.tokens_per_step / seconds
                log = {"event": "step", "step": record["step"], "seconds": seconds, "tokens_per_second": speed}
                append_jsonl(context.log_path, log)
                bar.set(loss=round(record["loss"], 4), tokens_per_second=round(speed))
                bar.advance(1)
                stopping = context.stop_requested()
                if stopping or done == plan.steps or done % options.checkpoint_every == 0:
                    trainer.save(done)
                if stopping:  # a stop that came while saving waits for the next step, which will be saved too
                    context.check_stop()
    finally:
        trainer.metrics.close()
    return Trained(
        moments(model, trainer.optimizer), trainer.metrics.path, read_metrics(trainer.metrics.path), trainer.speed()
    )


class _Trainer:
    """The parts of a run and one step of it."""

    def __init__(
        self,
        plan: Plan,
        options: TrainingOptions,
        model: LongcatFlash,
        start: Tensors,
        data: WindowSource,
        validation: Validation,
    ) -> None:
        self.plan, self.options = plan, options
        self.model, self.data, self.validation = model, data, validation
        self.device = next(model.parameters()).device
        self.compute = ComputeModel(model, choose_dtype(options, self.device))
        self.optimizer = build_optimizer(model, options.optimizer, learning_rate_factors(plan.width_scale))
        load_moments(model, self.optimizer, start)
        self.controller = BiasController.of(
            options.balance,
            experts=model.config.n_routed_experts,
            zero_experts=model.config.zero_expert_num,
            topk=model.config.moe_topk,
        )
        self.checkpoints = RunCheckpoints(plan.work / "checkpoints", options.keep_last)
        self.metrics = MetricsFile(plan.work / "metrics.jsonl")
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
        self.compute.refresh()
        context.logger.info("going on from step %d of %d", saved.step, self.plan.steps)
        return saved.step

    def save(self, done: int) -> None:
        groups = {"model": model_tensors(self.model), "optimizer": moments(self.model, self.optimizer)}
        self.checkpoints.save(done, groups, {"metrics": self.metrics.mark()})

    def step(self, done: int) -> tuple[dict[str, Any], float]:
        """The optimizer step after `done` steps. Returns its line of metrics.jsonl and the seconds it took."""
        plan, began = self.plan, time.perf_counter()
        position = plan.schedule_start + done
        ids = batch(self.data, plan.data_start + done * plan.batch_size, plan.batch_size)
        loss, counts_LE = self._gradients(ids)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.options.optimizer.gradient_clip).item()
        counters = plan.counters(done + 1)
        self._check_finite(counters.step, {"loss": loss, "gradient norm": norm})
        rate = plan.schedule.learning_rate(position)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        gain = self.controller.gain(plan.schedule.progress(position))
        self.controller.update(self.model.router_biases(), counts_LE, plan.tokens_per_step, gain)
        self.compute.refresh()
        seconds = time.perf_counter() - began
        self.steps_timed, self.seconds = self.steps_timed + 1, self.seconds + seconds
        record = {
            "step": counters.step,
            "tokens": counters.tokens,
            "loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "balance_gain": gain,
            "active_experts": self.controller.active_experts(counts_LE, plan.tokens_per_step),
        }
        self.metrics.append(record | self._evaluate(done + 1))
        return record, seconds

    def _gradients(self, ids: Ids) -> tuple[float, torch.Tensor]:
        """Gradients of the mean loss over the whole batch [B, L+1]; returns that loss and the expert counts [L, E]."""
        total = ids.shape[0] * (ids.shape[1] - 1)
        loss, counts = 0.0, []
        for start in range(0, len(ids), self.plan.micro_batch_size):
            rows = torch.from_numpy(ids[start : start + self.plan.micro_batch_size]).to(self.device)
            loss_sum, _, output = self.compute.model.loss(rows[:, :-1], rows[:, 1:])
            (loss_sum / total).backward()
            self.compute.collect_gradients()
            loss += loss_sum.item() / total
            counts.append(output.expert_counts_LE)
        return loss, torch.stack(counts).sum(dim=0)

    def _check_finite(self, step: int, figures: Mapping[str, float]) -> None:
        """Raises DivergedError for the first figure that is NaN or infinite."""
        for name, value in figures.items():
            if math.isfinite(value):
                continue
            records = read_metrics(self.metrics.path)
            last = (
                f"; the last finite loss was {records[-1]['loss']:.4f} at step {records[-1]['step']}" if records else ""
            )
            raise DivergedError(
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
        rows = self.plan.micro_batch_size
        loss = mean_loss(self.compute.model, self.validation.inputs, self.validation.targets, rows)
        self._check_finite(self.plan.counters(done).step, {"validation loss": loss})
        return {"validation_loss": loss}

    def speed(self) -> dict[str, float]:
        """Clock-dependent figures of the steps that this process did; empty when it did none."""
        if not self.steps_timed:
            return {}
        tokens = self.steps_timed * self.plan.tokens_per_step
        return {
            "tokens_per_second": round(tokens / self.seconds, 1),
            "step_seconds": round(self.seconds / self.steps_timed, 4),
        }
