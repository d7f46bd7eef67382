"""Training of toy models with the project's model, AdamW, schedule and controller of the router biases.

A `Run` is one configuration with one seed. Runs with the same seed see the same windows in the same order, and matrices
of equal shape start with equal values, so configurations can be compared per seed. Each run has a process and a thread
of its own and writes a JSON file: a script that was killed resumes with the missing runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from text import Text, library_text, packed_text

from longcat.model.accounting import count
from longcat.model.config import ModelConfig
from longcat.model.growth.depth import DepthScale
from longcat.model.growth.layers import Growth, Order
from longcat.model.growth.memory import grow_model, grow_tensors
from longcat.model.init import initialize
from longcat.model.transformer import BackboneOutput, LongcatFlash
from longcat.stages.train.config import BalanceOptions, OptimizerOptions, ScheduleOptions, WeightRescalingOptions
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.embeddings.collisions import collisions_of
from longcat.stages.train.load_balance.controller import BiasController
from longcat.stages.train.optim.adamw import build_optimizer, load_moments, moments, set_learning_rate
from longcat.stages.train.optim.kinds import KindsOptions, initial_std
from longcat.stages.train.optim.schedule import Schedule
from longcat.stages.train.optim.weight_rescaling import WeightRescaling
from longcat.stages.train.parallel.build import whole

Figures = dict[str, Any]
VALIDATION_ROWS = 128
VALIDATION_BATCH = 32
PROBED_STEPS = 3
QUICK_STEPS = 2
COUNTED_TOKENS = 1 << 19

# Two shortcut layers; 4 of 6 selected experts are FFN experts on average (LongCat-Flash: 8 of 12). The factor on
# routing weights is ffn_hidden_size / expert_ffn_hidden_size, as published. Initial values are wider than 0.02 because
# their effect scales with the root of the width: 0.05 * sqrt(64) is close to 0.02 * sqrt(768), the report's proxy.
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 4,
    "ffn_hidden_size": 128,
    "expert_ffn_hidden_size": 32,
    "n_routed_experts": 16,
    "zero_expert_num": 8,
    "moe_topk": 6,
    "routed_scaling_factor": 4.0,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.05,
}


# Values of `BASE` that scale with the width; head sizes and numbers of experts and layers are constant.
WIDTHS = (
    *("hidden_size", "ffn_hidden_size", "expert_ffn_hidden_size", "num_attention_heads"),
    *("q_lora_rank", "kv_lora_rank"),
)


def of_width(width: int) -> dict[str, Any]:
    """`BASE` with the hidden size `width`, at least 16."""
    return {key: BASE[key] * width // BASE["hidden_size"] for key in WIDTHS}


@dataclass(frozen=True)
class Growing:
    """A model of half the layers, which is grown after a fraction of all steps.

    `own_schedule`: the small model has a learning-rate schedule to its end, and the grown one re-warms from its last
    rate; otherwise one schedule spans both. `rescale_depth`: rescale what depends on the depth.
    """

    fraction: float
    order: Order = "stack"
    moments: Literal["copy", "rescale", "zero"] = "copy"
    own_schedule: bool = False
    rescale_depth: bool = False

    def after(self, steps: int) -> int:
        """Steps of the small model, of `steps` in all."""
        return max(1, round(self.fraction * steps))


@dataclass(frozen=True)
class Run:
    """One run. `model` overrides values of `BASE`; `width_scale` is s of the report's table 1; 1: no transfer.

    `rescaling` are values of `WeightRescalingOptions`, `optimizer` options of the optimizer besides `eps`.
    """

    label: str
    seed: int
    model: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 8e-3
    eps: float = 1e-16
    hidden_z_loss: float = 0.0
    width_scale: float = 1.0
    steps: int = 400
    batch_size: int = 8
    sequence_length: int = 128
    growing: Growing | None = None
    rescaling: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> OptimizerOptions:
        """Of the optimizer: `optimizer` and `eps`."""
        return OptimizerOptions(**{"eps": self.eps, **self.optimizer})

    def architecture(self, vocab_size: int) -> ModelConfig:
        return ModelConfig(**{**BASE, **self.model, "vocab_size": vocab_size})

    def name(self, text: Text) -> str:
        """Unique name of this run on this text."""
        digest = hashlib.sha256(json.dumps([asdict(self), text.fingerprint], sort_keys=True).encode()).hexdigest()
        return f"{digest[:20]}.json"


Results = dict[str, list[Figures]]


@dataclass(frozen=True)
class Experiment:
    """`plan` makes the runs of the given seeds; `report` writes a plot to a path and returns a Markdown table.

    `quick`: whether a run is part of the smoke test.
    """

    name: str
    description: str
    seeds: int
    plan: Callable[[range], list[Run]]
    report: Callable[[Results, Path], str]
    quick: Callable[[Run], bool] = lambda _: True


def train(run: Run, text: Text) -> Figures:
    """Train one model on one thread. Series have one value per step; a loss that is not finite ends the run.

    `peak_bytes` is the largest resident memory of the process, with its libraries (200 to 300 MB).
    """
    began, started = time.process_time(), time.perf_counter()
    with reproducible(threads=1):
        trainer = Trainer(run, text)
        records: list[Figures] = []
        while len(records) < run.steps and not (records and not math.isfinite(records[-1]["loss"])):
            records.append(trainer.step(len(records)))
        validation = trainer.validation_loss() if math.isfinite(records[-1]["loss"]) else math.nan
    return {
        "run": asdict(run),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "activated": count(trainer.model.config, run.sequence_length).activated_mean,
        "collisions": collisions(trainer.model.config, text),
        "validation_loss": validation,
        "jump": trainer.jump,
        "rescalings": trainer.rescalings,
        "cpu_seconds": time.process_time() - began,
        "wall_seconds": time.perf_counter() - started,
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        **{key: [record[key] for record in records] for key in records[0]},
    }


def collisions(config: ModelConfig, text: Text) -> float | None:
    """Collisions in the n-gram table with the most of them, relative to a uniform hash; None without tables."""
    if config.ngram_tables is None:
        return None
    ids = torch.from_numpy(text.train[:COUNTED_TOKENS].astype("int64"))
    return max(each.ratio for each in collisions_of(config, ids, torch.tensor([0, len(ids)])))


class Trainer:
    """Model, optimizer and bias controller."""

    def __init__(self, run: Run, text: Text) -> None:
        self.run, self.text = run, text
        config = run.architecture(text.vocab_size)
        if run.growing is not None:
            config = config.model_copy(update={"num_layers": config.num_layers // 2})
        self.model = LongcatFlash(config)
        std = initial_std(config.initializer_range, KindsOptions(), run.width_scale)
        initialize(self.model, run.seed, std)
        self.optimizer = build_optimizer(self.model, run.options, scale=run.width_scale)
        self.rescaling = self.hook()
        self.rescalings: dict[int, float] = {}
        if run.rescaling.get("at_start"):
            self.rescale(0)
        self.jump: Figures = {}
        self.first = 0  # the first step of the schedule
        own = run.growing is not None and run.growing.own_schedule
        steps = run.growing.after(run.steps) if run.growing is not None and own else run.steps
        self.schedule = Schedule.of(ScheduleOptions(), run.learning_rate, steps)
        self.controller = BiasController.of(
            BalanceOptions(),
            experts=config.n_routed_experts,
            zero_experts=config.zero_expert_num,
            topk=config.moe_topk,
        )

    def step(self, step: int) -> Figures:
        run, tokens = self.run, self.run.batch_size * self.run.sequence_length
        if run.growing is not None and step == run.growing.after(run.steps):
            self.grow(run.growing, step)
        rows = torch.from_numpy(self.text.batch(run.seed, step, run.batch_size, run.sequence_length))
        loss_sum, _, output = self.model.loss(rows[:, :-1], rows[:, 1:])
        loss = loss_sum / tokens
        (loss + run.hidden_z_loss * hidden_z(output)).backward()
        figures = {"loss": loss.item(), "gradient_rms": self.gradient_rms(), "gradient_ratio": self.gradient_ratio()}
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), OptimizerOptions().gradient_clip)
        figures["gradient_norm"] = norm.item()
        set_learning_rate(self.optimizer, self.schedule.learning_rate(step - self.first))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        gain = self.controller.gain(self.schedule.progress(step - self.first))
        self.controller.update(self.model.router_biases(), output.expert_counts_LE, tokens, gain)
        if self.rescaling is not None and (step + 1) % run.rescaling.get("every", math.inf) == 0:
            self.rescale(step + 1)
        return figures | self.routing(output) | states(output)

    def grow(self, growing: Growing, step: int) -> None:
        """Double the layers before step `step`; the validation losses before and after it are kept."""
        if self.run.width_scale != 1:
            raise ValueError("a run that grows has the width scale 1")
        before, small = self.validation_loss(), self.model.config
        growth = Growth.of(small.num_layers, 2, growing.order)
        state = {} if growing.moments == "zero" else moments(self.model, self.optimizer)
        self.model = grow_model(self.model, growth, rescale_depth=growing.rescale_depth)
        depth = DepthScale(small, self.model.config) if growing.rescale_depth else None
        self.optimizer = build_optimizer(self.model, self.run.options)
        if growing.moments != "zero":
            load_moments(self.model, self.optimizer, grow_tensors(state, growth, growing.moments, depth))
        self.rescaling = self.hook()
        if growing.own_schedule:
            last = self.schedule.learning_rate(step - 1)
            self.first = step
            self.schedule = Schedule.of(ScheduleOptions(), self.run.learning_rate, self.run.steps - step, last)
        self.jump = {"step": step, "before": before, "after": self.validation_loss()}

    def hook(self) -> WeightRescaling | None:
        """The rescaling of weights of the run, if it has one."""
        held = whole(self.model, torch.device("cpu"), torch.float32)
        return WeightRescaling.of(WeightRescalingOptions(**self.run.rescaling), held, self.optimizer, None)

    @torch.no_grad()
    def rescale(self, step: int) -> None:
        """Rescale the weights after `step` steps; keeps the largest change of a logit, relative to the largest one."""
        rows = torch.from_numpy(self.text.held_out(4, self.run.sequence_length))[:, :-1]
        before = self.model(rows).logits
        if self.rescaling is not None:
            self.rescaling.rescale()
        change = (self.model(rows).logits - before).abs().max() / before.abs().max()
        self.rescalings[step] = change.item()

    def gradient_ratio(self) -> float:
        """Norm of the gradient of the first dense down-projection of the first layer, over that of the last."""
        norms = [layer.mlps[0].down_proj.weight.grad.norm().item() for layer in self.model.model.layers]
        return norms[0] / norms[-1] if norms[-1] else math.nan

    def gradient_rms(self) -> float:
        """Root mean square over all matrices, before clipping."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None and p.ndim >= 2]
        return math.sqrt(sum(g.square().sum().item() for g in gradients) / sum(g.numel() for g in gradients))

    def routing(self, output: BackboneOutput) -> Figures:
        """Mean number of FFN experts per token, and its standard deviation over tokens, per layer."""
        active_LT = torch.stack([(r.experts_TK < self.controller.experts).sum(dim=1) for r in output.routing]).double()
        return {"active": active_LT.mean(dim=1).tolist(), "active_std": active_LT.std(dim=1, correction=0).tolist()}

    @torch.no_grad()
    def validation_loss(self) -> float:
        run = self.run
        rows = torch.from_numpy(self.text.held_out(VALIDATION_ROWS, run.sequence_length))
        sums = [self.model.loss(part[:, :-1], part[:, 1:])[0].item() for part in rows.split(VALIDATION_BATCH)]
        return math.fsum(sums) / (VALIDATION_ROWS * run.sequence_length)


def hidden_z(output: BackboneOutput) -> torch.Tensor:
    """Mean over tokens of `(log sum_i exp |z_i|)^2`, z the hidden states before the final norm (report, eq. 10)."""
    return output.residual_BTD.abs().logsumexp(dim=-1).square().mean()


def states(output: BackboneOutput) -> Figures:
    """Mean L2 norm and largest entry of the hidden states before the final norm."""
    z_BTD = output.residual_BTD.detach()
    return {"state_norm": z_BTD.norm(dim=-1).mean().item(), "largest_state": z_BTD.abs().max().item()}


def run_and_keep(run: Run, text: Text, folder: Path) -> Figures:
    """Call `train`, or read its earlier result from `folder`."""
    path = folder / run.name(text)
    if not path.is_file():
        figures = train(run, text)
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(figures), encoding="utf-8")
        partial.replace(path)
    kept: Figures = json.loads(path.read_text(encoding="utf-8"))
    return kept


def run_all(runs: Sequence[Run], text: Text, folder: Path, workers: int) -> Results:
    """Results of all runs by label, in order of their seeds; `workers` at a time, 0: in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    left = [run for run in runs if not (folder / run.name(text)).is_file()]
    print(f"{len(runs)} runs, {len(runs) - len(left)} already done", file=sys.stderr)
    if left and workers:
        print(f"about {estimate(left, text) / workers / 60:.1f} minutes", file=sys.stderr)
    if workers:
        # Read by libraries when the child process starts: each run must use only one core.
        os.environ["OMP_NUM_THREADS"] = "1"
        # A process for each run, so that its peak memory is its own.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
            futures = {pool.submit(run_and_keep, run, text, folder): run for run in left}
            for future in as_completed(futures):
                done = future.result()
                print(f"{done['run']['label']} {done['run']['seed']}: {done['validation_loss']:.4f}", file=sys.stderr)
    results: Results = {}
    for run in runs:
        results.setdefault(run.label, []).append(run_and_keep(run, text, folder))
    return results


def estimate(runs: Sequence[Run], text: Text) -> float:
    """Estimated CPU seconds of all runs, from a few steps of each size."""
    seconds: dict[str, float] = {}
    for run in runs:
        size = json.dumps([run.model, run.batch_size, run.sequence_length])
        if size not in seconds:
            with reproducible(threads=1):
                trainer = Trainer(run, text)
                trainer.step(0)
                began = time.process_time()
                for step in range(1, PROBED_STEPS):
                    trainer.step(step)
                seconds[size] = (time.process_time() - began) / (PROBED_STEPS - 1)
    return sum(run.steps * seconds[json.dumps([run.model, run.batch_size, run.sequence_length])] for run in runs)


def main(experiment: Experiment, arguments: Sequence[str] | None = None) -> None:
    """The command line of an experiment; writes OUTPUT/NAME.md, .json and .svg."""
    parser = argparse.ArgumentParser(
        description=experiment.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("paper-runs"), help="output folder, also of cached runs")
    parser.add_argument("--seeds", type=int, default=experiment.seeds, help="seeds per configuration")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each; 0: in this process")
    parser.add_argument("--tokens", type=Path, help="a tokens artifact instead of the standard library's source")
    parser.add_argument("--quick", action="store_true", help="a few steps of one seed, as a smoke test")
    given = parser.parse_args(arguments)
    given.output.mkdir(parents=True, exist_ok=True)
    cache = given.output / ("tokens-quick.npz" if given.quick else "tokens.npz")
    text = packed_text(given.tokens) if given.tokens else library_text(cache, given.quick)
    runs = experiment.plan(range(1 if given.quick else given.seeds))
    if given.quick:
        runs = [
            replace(run, steps=QUICK_STEPS, batch_size=2, sequence_length=32) for run in runs if experiment.quick(run)
        ]
    results = run_all(runs, text, given.output / experiment.name, 0 if given.quick else given.workers)
    table = experiment.report(results, given.output / f"{experiment.name}.svg")
    seconds = sum(figures["cpu_seconds"] for same in results.values() for figures in same)
    table += f"\n{len(runs)} runs, {seconds / 60:.1f} CPU minutes\n"
    (given.output / f"{experiment.name}.md").write_text(table, encoding="utf-8")
    (given.output / f"{experiment.name}.json").write_text(json.dumps(summary(results), indent=1), encoding="utf-8")
    print(table)


def summary(results: Results) -> Figures:
    """Data of a table: the final figures of every run."""
    return {
        label: [
            {key: value[-1] if isinstance(value, list) else value for key, value in figures.items()} for figures in runs
        ]
        for label, runs in results.items()
    }
