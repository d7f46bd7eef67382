"""Multi-query associative recall with small states: FG2-GDN and FG2-GDN+ against GDN, KDA and GDN-2.

A row begins with pairs of a key and a value; later the keys come back in another order, and after each its value is
asked for (Arora et al. 2023, arXiv 2312.04927: keys are the lower half of the vocabulary and values the upper one,
distances follow a power law with a = 0.01, random tokens fill the rest). The state of a head has fewer rows than there
are pairs, so a rule must write one key without erasing others. Training has batches of several numbers of pairs; latent
attention, whose cache is not limited, tells whether the task is learned at all. Runs with the same seed see the same
rows.

    python benchmarks/paper/delta.py [--seeds 3] [--steps 2000] [--head-dim 8] [--workers 2] [--quick]
        [--output paper-runs]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tables import difference, markdown, spread
from toy import BASE

from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash
from longcat.stages.formats.svg import Line, Panel, draw
from longcat.stages.train.config import OptimizerOptions, ScheduleOptions
from longcat.stages.train.determinism import reproducible
from longcat.stages.train.optim.adamw import build_optimizer, set_learning_rate
from longcat.stages.train.optim.schedule import Schedule

Figures = dict[str, Any]
RULES = ("gdn", "kda", "gdn2", "fg2", "fg2_plus")
LABELS = {"gdn": "GDN", "kda": "KDA", "gdn2": "GDN-2", "fg2": "FG2-GDN", "fg2_plus": "FG2-GDN+", "mla": "MLA"}
PAIRS = (4, 8, 16)
VOCABULARY = 128
POWER = 0.01
EVALUATED_ROWS, EVERY = 256, 100
QUICK = {"steps": 2, "rows": 2}
# One layer with two attention modules of two heads; experts as in the other toy models, but fewer.
MODEL = {
    **BASE,
    "vocab_size": VOCABULARY,
    "num_layers": 1,
    "num_attention_heads": 2,
    "n_routed_experts": 4,
    "zero_expert_num": 2,
    "moe_topk": 2,
    "routed_scaling_factor": 2.0,
}


@dataclass(frozen=True)
class Run:
    """One rule with one seed."""

    rule: str
    seed: int
    head_dim: int = 8
    steps: int = 2000
    rows: int = 32
    length: int = 64
    learning_rate: float = 4e-3

    def config(self) -> ModelConfig:
        attention = None if self.rule == "mla" else {"kind": "delta", "rule": self.rule, "head_dim": self.head_dim}
        return ModelConfig(**{**MODEL, "attention": attention})

    def path(self, folder: Path) -> Path:
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return folder / f"{digest[:20]}.json"


def recall_rows(stream: np.random.Generator, rows: int, length: int, pairs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and targets [rows, length]; targets are -100 except at the keys that ask for a value."""
    first, half = 2 * pairs, VOCABULARY // 2
    places = (length - first) // 2
    if places < pairs:
        raise ValueError(f"{length} tokens have no room for {pairs} pairs and their keys again")
    weights = np.arange(1, places + 1) ** (POWER - 1)
    ids = stream.integers(VOCABULARY, size=(rows, length))
    targets = np.full((rows, length), -100)
    for row in range(rows):
        keys = stream.choice(np.arange(1, half), pairs, replace=False)
        values = stream.choice(np.arange(half, VOCABULARY), pairs, replace=False)
        asked = first + 2 * stream.choice(places, pairs, replace=False, p=weights / weights.sum())
        ids[row, 0:first:2], ids[row, 1:first:2] = keys, values
        ids[row, asked], targets[row, asked] = keys, values
    return torch.from_numpy(ids), torch.from_numpy(targets)


@torch.no_grad()
def accuracies(model: LongcatFlash, run: Run, rows: int) -> dict[str, float]:
    """Share of values found, by number of pairs, on rows that no training batch has."""
    found = {}
    for pairs in PAIRS:
        ids, targets = recall_rows(np.random.default_rng([1, pairs]), rows, run.length, pairs)
        asked = targets != -100
        found[str(pairs)] = (model(ids).logits.argmax(-1)[asked] == targets[asked]).double().mean().item()
    return found


def train(run: Run) -> Figures:
    """Losses of all steps, and accuracies during and after training."""
    began, options = time.process_time(), OptimizerOptions()
    with reproducible(threads=1):
        model = LongcatFlash(run.config())
        initialize(model, run.seed)
        optimizer = build_optimizer(model, options)
        schedule = Schedule.of(ScheduleOptions(), run.learning_rate, run.steps)
        losses, during = [], []
        for step in range(run.steps):
            stream = np.random.default_rng([0, run.seed, step])
            ids, targets = recall_rows(stream, run.rows, run.length, PAIRS[step % len(PAIRS)])
            loss_sum, counted, _ = model.loss(ids, targets)
            (loss_sum / counted).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), options.gradient_clip)
            set_learning_rate(optimizer, schedule.learning_rate(step))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append((loss_sum / counted).item())
            if (step + 1) % EVERY == 0 or step + 1 == run.steps:
                during.append((step + 1, accuracies(model, run, EVALUATED_ROWS // 4)))
        final = accuracies(model, run, EVALUATED_ROWS if run.steps > QUICK["steps"] else 4)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    seconds = time.process_time() - began
    return {
        "run": asdict(run), "parameters": parameters, "accuracy": final, "during": during, "loss": losses,
        "cpu_seconds": seconds,
    }  # fmt: skip


def run_and_keep(run: Run, folder: Path) -> Figures:
    """Call `train`, or read its earlier result."""
    path = run.path(folder)
    if not path.is_file():
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(train(run)), encoding="utf-8")
        partial.replace(path)
    kept: Figures = json.loads(path.read_text(encoding="utf-8"))
    return kept


def run_all(runs: Sequence[Run], folder: Path, workers: int) -> list[Figures]:
    """Results in the order of the runs; `workers` at a time, 0: in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    if workers:
        os.environ["OMP_NUM_THREADS"] = "1"
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in as_completed([pool.submit(run_and_keep, run, folder) for run in runs]):
                done = future.result()
                print(done["run"]["rule"], done["run"]["seed"], done["accuracy"], file=sys.stderr, flush=True)
    return [run_and_keep(run, folder) for run in runs]


def report(results: Sequence[Figures], plot: Path) -> str:
    """Table of accuracies; `plot` gets their course during training."""
    by_rule: dict[str, list[Figures]] = {}
    for found in results:
        by_rule.setdefault(found["run"]["rule"], []).append(found)
    panels = [
        Panel(
            f"recall of {pairs} pairs",
            "step",
            [
                Line(
                    LABELS[rule],
                    [step for step, _ in same[0]["during"]],
                    [[values[str(pairs)] for _, values in one["during"]] for one in same],
                )
                for rule, same in by_rule.items()
            ],
            y_range=(0, 1),
        )
        for pairs in PAIRS
    ]
    plot.write_text(draw(panels), encoding="utf-8")
    rows = [
        [
            LABELS[rule],
            f"{same[0]['parameters']:,}",
            *(spread([one["accuracy"][str(pairs)] for one in same], 3) for pairs in PAIRS),
        ]
        for rule, same in by_rule.items()
    ]
    table = markdown(["rule", "parameters", *(f"{pairs} pairs" for pairs in PAIRS)], rows)
    hardest = str(PAIRS[-1])
    for first, second in (("fg2", "kda"), ("fg2_plus", "kda"), ("kda", "gdn")):
        both = [[one["accuracy"][hardest] for one in by_rule[rule]] for rule in (first, second)]
        table += f"\nRecall of {hardest} pairs, {LABELS[first]} minus {LABELS[second]}: {difference(*both)}\n"
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("paper-runs"), help="output folder, also of cached runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--head-dim", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2, help="runs at a time, of one thread each; 0: in this process")
    parser.add_argument("--quick", action="store_true", help="two steps of one seed, as a smoke test")
    given = parser.parse_args(arguments)
    seeds = range(1 if given.quick else given.seeds)
    runs = [Run(rule, seed, given.head_dim, given.steps) for seed in seeds for rule in (*RULES, "mla")]
    if given.quick:
        runs = [replace(run, **QUICK) for run in runs]
    results = run_all(runs, given.output / "delta", 0 if given.quick else given.workers)
    table = report(results, given.output / "delta.svg")
    seconds = sum(found["cpu_seconds"] for found in results)
    table += f"\nHeads of {given.head_dim}; {len(runs)} runs, {seconds / 60:.1f} CPU minutes\n"
    (given.output / "delta.md").write_text(table, encoding="utf-8")
    (given.output / "delta.json").write_text(json.dumps(results), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
