"""Load balance of training with sparse attention: time of a step in 4 gloo processes whose windows have one long
document or many short ones, by what balances it. Ablation as in SparseBalance (arXiv 2604.13847): none, length (LBB),
predicted seconds (SAB), moved budgets (DST), and both.

All rows of the table compute the gradients of the same windows with the same weights, in turn. Three clocks:

* wall       seconds of a step here. Processes that share cores take over from those that wait, so that balance gains
             little of it with fewer cores than processes.
* own cores  every process on a core of its own: CPU seconds measured for every window of every process, of which the
             slowest process counts in each round.
* simulated  the same with seconds of attention from the fitted latency model, and the mean of the rest.

    python benchmarks/sparse_balance.py [--quick] [--attention '{kind: ..., ...}'] [--length 2048] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TARGET = 1.2  # length-only balancing over sparsity-aware assignment and moved budgets
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16")
# Name: options.
STRATEGIES: dict[str, dict[str, Any]] = {
    "none": {},
    "LBB": {"assign": "length"},
    "SAB": {"assign": "sparsity"},
    "DST": {"budgets": "mean"},
    "LBB+DST": {"assign": "length", "budgets": "mean"},
    "SAB+DST": {"assign": "sparsity", "budgets": "mean"},
}
SHORT = 16  # documents of a window without a long one
MODEL: dict[str, Any] = {
    "hidden_size": 128,
    "num_layers": 2,
    "num_attention_heads": 8,
    "qk_rope_head_dim": 32,
    "vocab_size": 512,
}


def processor() -> dict[str, Any]:
    """Model and flags of the processor."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    present = facts.get("flags", "").split()
    return {"model": facts.get("model name", "unknown"), "flags": [flag for flag in FLAGS if flag in present]}


def configuration(given: argparse.Namespace) -> Any:
    from longcat.model.config import ModelConfig
    from longcat.model.presets import load_preset

    values = load_preset("tiny").model_dump() | MODEL | {"attention": given.attention}
    return ModelConfig(**values | {"max_position_embeddings": given.length, "initializer_range": 0.1})


class Bimodal:
    """Windows of one long document, with the given probability, or of `SHORT` documents."""

    windows_per_epoch = 1 << 30

    def __init__(self, length: int, long: float) -> None:
        self._length, self._long = length, long

    def sample(self, number: int) -> Any:
        import numpy as np

        from longcat.stages.formats.windows import Window

        generator = np.random.default_rng(number)
        is_long = generator.random() < self._long
        ids = generator.integers(MODEL["vocab_size"], size=self._length + 1)
        return Window(ids, np.arange(0, self._length, self._length if is_long else self._length // SHORT))

    def epochs(self, samples: int) -> float:
        return samples / self.windows_per_epoch


def work(rank: int, given: argparse.Namespace, folder: Path) -> None:
    """One process: all steps of all strategies; the first one writes FOLDER/found.json."""
    import torch
    import torch.distributed as dist

    from longcat.stages.train.parallel import control

    torch.set_num_threads(1)
    logging.getLogger().setLevel(logging.WARNING)
    store, timeout = dist.FileStore(str(folder / "store"), given.ranks), timedelta(minutes=10)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=given.ranks, timeout=timeout)
    run = Run(given, folder)
    rows = [run.step(name, step) for step in range(given.steps + 1) for name in run.balancers]
    if rank == 0:
        (folder / "found.json").write_text(json.dumps(rows))
    control.finalize()


class Run:
    """The model, and a balancer for every strategy."""

    def __init__(self, given: argparse.Namespace, folder: Path) -> None:
        import torch

        from longcat.stages.train.config import TrainConfig
        from longcat.stages.train.gradients import BatchGradients
        from longcat.stages.train.optim.precision import ComputeModel
        from longcat.stages.train.optim.schedule import Schedule
        from longcat.stages.train.parallel.build import build_model
        from longcat.stages.train.parallel.config import ParallelOptions
        from longcat.stages.train.parallel.mesh import Parallel
        from longcat.stages.train.parallel.state import load_full_state
        from longcat.stages.train.sparse_balance.balancer import RunBalancer
        from longcat.stages.train.sparse_balance.latency import LatencyModel
        from longcat.stages.train.training_plan import Counters, TrainingPlan

        self.given, data = given, Bimodal(given.length, given.long)
        parallel = Parallel.join(ParallelOptions(data_replicate=given.ranks), torch.device("cpu"))
        held = build_model(configuration(given), parallel)
        load_full_state(held, torch.load(folder / "model.pt", weights_only=True))
        plan = TrainingPlan(
            label="benchmark",
            work=folder,
            steps=given.steps,
            sequence_length=given.length,
            batch_size=given.batch,
            micro_batch_size=1,
            schedule=Schedule.of(TrainConfig(steps=1).schedule, 1e-3, 1),
            schedule_start=0,
            data_start=0,
            before=Counters(),
        )
        self.share = parallel.batch_share(given.batch, 1)
        self.marks: list[float] = []
        compute = Marked(ComputeModel(held), self.marks)
        self.parameters = [parameter for _, parameter in held.named_parameters()]
        self.balancers: dict[str, Any] = {}
        for name, balance in strategies(given).items():
            fixed = {"groups": given.ranks, "measure_every": given.steps + 1, "coverage_loss": given.bound}
            options = TrainConfig.model_validate(
                {
                    "steps": 1,
                    "nproc_per_node": given.ranks,
                    "sparse_balance": {**balance, **fixed} if balance else {},
                    "parallel": {"data_replicate": given.ranks},
                }
            )
            gradients = BatchGradients(plan, options, held, compute, None)
            self.balancers[name] = RunBalancer(plan, options, gradients, data, logging.getLogger("longcat"))
        path = folder / "latency.json"
        rows = [row["coefficients"] for row in json.loads(path.read_text())["layers"]]
        self.latency = LatencyModel.of(held.config, rows)

    def step(self, name: str, step: int) -> dict[str, Any]:
        """Gradients of one step, timed."""
        from longcat.stages.train.parallel.control import control

        balancer, first = self.balancers[name], step * self.given.batch
        batch = balancer.batch(first, self.share)
        plan = balancer.plan(first)
        moved = balancer.moved(plan) if balancer.options.moves_budgets else None
        control().barrier()
        began, self.marks[:] = time.perf_counter(), [time.thread_time()]
        _, figures = balancer.take(batch, first, step + 1)
        control().barrier()
        wall = time.perf_counter() - began
        for parameter in self.parameters:
            parameter.grad = None
        cpu = control().gather([end - start for start, end in zip(self.marks, self.marks[1:], strict=False)])
        if moved is None:
            predicted = [[self.latency.seconds(plan.lengths[window]) for window in row] for row in plan.windows]
        else:
            predicted = moved.seconds.sum(axis=0).tolist()
        return {"strategy": name, "step": step, "wall": wall, "cpu": cpu, "predicted": predicted, **figures}


class Marked:
    """A `ComputeModel` that notes the CPU time of this thread after every backward pass."""

    def __init__(self, compute: Any, marks: list[float]) -> None:
        self._compute, self._marks = compute, marks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._compute, name)

    def collect_gradients(self) -> None:
        self._compute.collect_gradients()
        self._marks.append(time.thread_time())


def strategies(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Those that the attention kind can take."""
    config = configuration(given)
    has_budgets = all(config.mixer(slot).mixer.budget_in(config, slot) for slot in range(2 * config.num_layers))
    return {name: options for name, options in STRATEGIES.items() if has_budgets or "budgets" not in options}


def clock(seconds: list[list[float]]) -> float:
    """Seconds of the rounds of a step, in each of which the slowest process counts; [processes][rounds]."""
    return sum(max(turn) for turn in zip(*seconds, strict=True))


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians over steps without the first, by strategy."""
    timed = [row for row in rows if row["step"]]
    plain = [row for row in timed if row["strategy"] == "none"]
    windows = [
        (cpu, predicted)
        for row in plain
        for of_cpu, of_predicted in zip(row["cpu"], row["predicted"], strict=True)
        for cpu, predicted in zip(of_cpu, of_predicted, strict=True)
    ]
    rest = max(0.0, statistics.mean(cpu - predicted for cpu, predicted in windows))
    found = []
    for name in dict.fromkeys(row["strategy"] for row in timed):
        own = [row for row in timed if row["strategy"] == name]
        simulated = [clock([[rest + value for value in group] for group in row["predicted"]]) for row in own]
        totals = [[sum(group) for group in row["cpu"]] for row in own]
        found.append(
            {
                "strategy": name,
                "wall": statistics.median(row["wall"] for row in own),
                "own_cores": statistics.median(clock(row["cpu"]) for row in own),
                "simulated": statistics.median(simulated),
                "imbalance": statistics.mean(max(total) / statistics.mean(total) for total in totals),
                "budget_ratio": statistics.mean(row.get("budget_ratio", 1.0) for row in own),
                "coverage_loss": max(row.get("coverage_loss", 0.0) for row in own),
            }
        )
    return found


def print_table(found: list[dict[str, Any]], bound: float) -> dict[str, float]:
    """Print it; returns the gain of both measures over length-only balancing by clock."""
    print("            wall            own cores       simulated       imbalance   keys    coverage lost")
    base = found[0]
    for row in found:
        times = "".join(
            f"  {1000 * row[key]:7.0f} ms {base[key] / row[key]:4.2f}x" for key in ("wall", "own_cores", "simulated")
        )
        print(
            f"{row['strategy']:8s}{times}  {row['imbalance']:9.2f}  {row['budget_ratio']:6.0%}  "
            f"{row['coverage_loss']:8.3f}"
        )
    named = {row["strategy"]: row for row in found}
    if "SAB+DST" not in named:
        return {}
    gains = {key: named["LBB"][key] / named["SAB+DST"][key] for key in ("wall", "own_cores", "simulated")}
    said = ", ".join(f"{key.replace('_', ' ')} {value:.2f}" for key, value in gains.items())
    print(f"SAB+DST over LBB: {said} (target {TARGET}); coverage lost at most {bound} allowed")
    return gains


def main() -> None:
    import yaml

    from longcat.model.mixers import KINDS

    KINDS["blocks"] = "block_attention:BlockAttention"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attention", type=yaml.safe_load, default={"kind": "blocks", "k": 512})
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--long", type=float, default=0.3, help="probability of a window with one long document")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--bound", type=float, default=0.1, help="coverage that a budget may lose")
    parser.add_argument("--near", type=float, default=0.6, help="how much attention prefers near positions")
    parser.add_argument("--quick", action="store_true", help="3 steps of 512 tokens")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.quick:
        given.length, given.steps = 512, 3
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    host = processor()
    print(f"{host['model']} ({', '.join(host['flags'])}), {os.cpu_count()} cores, {given.ranks} processes")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile(given, folder)
        save_model(given, folder / "model.pt")
        fork = multiprocessing.get_context("fork")
        processes = [fork.Process(target=work, args=(rank, given, folder)) for rank in range(given.ranks)]
        for process in processes:
            process.start()
        while running := [process for process in processes if process.is_alive()]:
            if any(process.exitcode for process in processes):  # the others would wait for it
                for process in running:
                    process.kill()
            running[0].join(0.5)
        if any(process.exitcode for process in processes):
            raise SystemExit("a process failed")
        rows = json.loads((folder / "found.json").read_text())
        latency = json.loads((folder / "latency.json").read_text())
    found = table(rows)
    gains = print_table(found, given.bound)
    if given.output:
        settings = {key: value for key, value in vars(given).items() if key != "output"}
        result = {"machine": host, "settings": settings, "table": found, "gains": gains, "target": TARGET}
        given.output.write_text(json.dumps(result | {"latency": latency, "steps": rows}, indent=1) + "\n")


def save_model(given: argparse.Namespace, path: Path) -> None:
    """The model of all processes, whose attention prefers near positions."""
    import torch
    from block_attention import prefer_near_positions

    from longcat.model.init import initialize
    from longcat.model.transformer import LongcatFlash

    model = LongcatFlash(configuration(given))
    initialize(model, 0)
    ids = torch.randint(MODEL["vocab_size"], (1, 256), generator=torch.Generator().manual_seed(0))
    prefer_near_positions(model, ids, given.near)
    torch.save(model.state_dict(), path)


def profile(given: argparse.Namespace, folder: Path) -> None:
    """Measure the latency model alone on the machine; the processes read it."""
    import torch

    from longcat.stages.train.parallel import control
    from longcat.stages.train.sparse_balance.config import SparseBalanceOptions
    from longcat.stages.train.sparse_balance.profile import latency_model

    torch.set_num_threads(1)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    held: Any = SimpleNamespace(
        config=configuration(given), dtype=torch.float32, parallel=SimpleNamespace(device=torch.device("cpu"))
    )
    latency_model(SparseBalanceOptions(assign="sparsity"), held, given.length, folder, logging.getLogger("longcat"))
    control.finalize()  # the processes make groups of their own


if __name__ == "__main__":
    main()
