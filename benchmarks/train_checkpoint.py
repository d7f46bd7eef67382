"""Time that training stalls for a checkpoint of its run, compared with DCP's asynchronous save.

A run of lc-100m with AdamW in one process, float32 on CPU: about 1.2 GB per checkpoint. Each round saves with every
method while the next step is computed, and waits for each save before the next; the order rotates from round to round.

    blocking    save, wait until it is durable, then the step
    background  save, forward and backward, before_update, optimizer step: as in `longcat train`
    dcp         torch.distributed.checkpoint.async_save (with its pickle-free safetensors writer), then the step

`stall` is the time in which training only waits for the checkpoint, `save` the time until it is complete (ours:
written, hashed, fsynced and renamed), `step` the time of the step without the stall; `none` is a step without a save.
Medians of the rounds.

    python benchmarks/train_checkpoint.py [--preset lc-100m] [--rounds 5] [--rows 4] [--length 256] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp

from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.checkpoints.resumable import RunCheckpoints, model_tensors
from longcat.stages.train.config import OptimizerOptions
from longcat.stages.train.optim.adamw import build_optimizer, moments, set_learning_rate

Figures = dict[str, float]


class Run:
    """Model, optimizer and the two halves of a step."""

    def __init__(self, preset: str, rows: int, length: int) -> None:
        self.model = LongcatFlash(load_preset(preset))
        initialize(self.model, 0)
        self.optimizer = build_optimizer(self.model, OptimizerOptions())
        set_learning_rate(self.optimizer, 1e-4)
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(self.model.config.vocab_size, (rows, length + 1), generator=generator)

    def gradients(self) -> float:
        began = time.perf_counter()
        loss_sum, count, _ = self.model.loss(self.ids[:, :-1], self.ids[:, 1:])
        (loss_sum / count).backward()
        return time.perf_counter() - began

    def update(self) -> float:
        began = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - began

    def groups(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"model": model_tensors(self.model), "optimizer": moments(self.model, self.optimizer)}


def none(run: Run, folder: Path) -> Figures:
    """A step without a save."""
    return {"stall": 0.0, "save": 0.0, "step": run.gradients() + run.update()}


class Ours:
    """Our checkpoint writer; one object for all rounds, as in a run."""

    def __init__(self, folder: Path) -> None:
        self.told: list[dict[str, float]] = []
        self.checkpoints = RunCheckpoints(folder, keep=1, log=self.told.append)
        self.step = 0

    def blocking(self, run: Run, folder: Path) -> Figures:
        began = time.perf_counter()
        self._save(run)
        self.checkpoints.wait()
        stall = time.perf_counter() - began
        return {"stall": stall, "save": stall, "step": run.gradients() + run.update()}

    def background(self, run: Run, folder: Path) -> Figures:
        self._save(run)
        computed = run.gradients()
        self.checkpoints.before_update()
        computed += run.update()
        self.checkpoints.wait()
        return {"stall": self.told[-1]["stall_seconds"], "save": self.told[-1]["seconds"], "step": computed}

    def _save(self, run: Run) -> None:
        self.step += 1
        self.checkpoints.save(self.step, run.groups(), {})


def dcp_async(run: Run, folder: Path) -> Figures:
    """DCP copies before it returns, then writes in a background thread."""
    target = folder / "dcp"
    shutil.rmtree(target, ignore_errors=True)
    began = time.perf_counter()
    state = {f"{group}.{name}": tensor for group, parts in run.groups().items() for name, tensor in parts.items()}
    writer = dcp.HuggingFaceStorageWriter(str(target), save_distributed=True)
    pending = dcp.async_save(state, storage_writer=writer, no_dist=True)
    stall = time.perf_counter() - began
    computed = run.gradients() + run.update()
    pending.result()
    return {"stall": stall, "save": time.perf_counter() - began, "step": computed}


def measure(run: Run, rounds: int, folder: Path) -> dict[str, list[Figures]]:
    ours = Ours(folder / "ours")
    ways: dict[str, Callable[[Run, Path], Figures]] = {
        "none": none,
        "blocking": ours.blocking,
        "background": ours.background,
        "dcp": dcp_async,
    }
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    run.gradients()
    run.update()
    for number in range(rounds + 1):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            figures = ways[name](run, folder)
            if number:  # the first round allocates the buffers
                found[name].append(figures)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")
    run = Run(options.preset, options.rows, options.length)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(run, options.rounds, Path(folder))
    size = sum(tensor.nbytes for parts in run.groups().values() for tensor in parts.values())
    medians = {
        name: {key: statistics.median(figures[key] for figures in rows) for key in rows[0]}
        for name, rows in found.items()
    }
    save = medians["blocking"]["save"]
    print(f"{options.preset}, {size / 1e9:.2f} GB per checkpoint, medians of {options.rounds} rounds")
    print(f"{'':12}{'stall s':>9}{'save s':>9}{'step s':>9}{'stall / blocking save':>24}")
    for name, row in medians.items():
        print(f"{name:12}{row['stall']:9.3f}{row['save']:9.2f}{row['step']:9.2f}{row['stall'] / save:24.2%}")
    if options.output:
        ratios = {name: row["stall"] / save for name, row in medians.items()}
        result = {"preset": options.preset, "bytes": size, "medians": medians, "stall_of_save": ratios}
        options.output.write_text(json.dumps({**result, "rounds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
