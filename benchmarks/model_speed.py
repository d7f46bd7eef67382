"""Training, prefill and decode of `lc-100m` in float32: ours compared with transformers and the limits of the machine.

Each tool runs in a process of its own, which waits while another one computes; rounds are interleaved and medians
shown. The limits are measured in the same run: the rate of a square float32 matrix product, and the bandwidth of
reading a large array. A training step is forward, backward and AdamW; its fraction of the peak counts matrix products
of the experts that were actually selected, and causal attention. The bound of decode is the time to read, at that
bandwidth, every weight used by the step and the cache once. Prefill ends with the logits of the last token, as serving
needs.

    python benchmarks/model_speed.py [--tasks train,prefill-512,...] [--rounds 5] [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

TASKS = ("train-4x512", "prefill-1x512", "prefill-1x2048", "decode-1@128", "decode-1@2048", "decode-8@128")
TOOLS = ("ours", "transformers")
DECODE_STEPS = 16
PRESET = "lc-100m"


class Tool(Protocol):
    """One implementation: `train` and `prefill` run one step, `decode` several tokens; each returns seconds."""

    def train(self, batch: int, length: int) -> float: ...
    def prefill(self, batch: int, length: int) -> float: ...
    def decode(self, batch: int, length: int) -> float: ...


def tokens_of(batch: int, length: int, vocabulary: int) -> Any:
    import torch

    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(length))


class Ours:
    def __init__(self) -> None:
        import torch

        from longcat.model.init import initialize
        from longcat.model.presets import load_preset
        from longcat.model.rows import Rows
        from longcat.model.transformer import LongcatFlash
        from longcat.stages.train.config import OptimizerOptions
        from longcat.stages.train.optim.adamw import build_optimizer

        self.config = load_preset(PRESET)
        self.model = LongcatFlash(self.config)
        initialize(self.model, seed=0)
        self.torch, self.rows = torch, Rows
        self.optimizer = build_optimizer(self.model, OptimizerOptions())
        self.selected = 0.0

    def train(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length + 1, self.config.vocab_size)
        started = time.perf_counter()
        loss, count, output = self.model.loss(tokens[:, :-1], tokens[:, 1:])
        (loss / count).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - started
        routed = output.expert_counts_LE[:, : self.config.n_routed_experts]
        self.selected = float(routed.sum()) / (batch * length * self.config.num_layers)
        return seconds

    def prefill(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.config.vocab_size)
        with self.torch.no_grad():
            started = time.perf_counter()
            self.rows(self.model, batch, length + DECODE_STEPS).append(tokens, logits_to_keep=1)
            return time.perf_counter() - started

    def decode(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.config.vocab_size)
        with self.torch.no_grad():
            rows = self.rows(self.model, batch, length + DECODE_STEPS)
            following = rows.append(tokens, logits_to_keep=1).logits.argmax(-1)
            started = time.perf_counter()
            for _ in range(DECODE_STEPS):
                following = rows.append(following).logits.argmax(-1)
            return time.perf_counter() - started


class Transformers:
    def __init__(self) -> None:
        import torch
        from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

        from longcat.model.presets import load_preset

        self.vocabulary = load_preset(PRESET).vocab_size
        self.model = LongcatFlashForCausalLM(LongcatFlashConfig(**load_preset(PRESET).to_dict())).float()
        self.torch = torch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def train(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.vocabulary)
        started = time.perf_counter()
        self.model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    def prefill(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.vocabulary)
        with self.torch.no_grad():
            started = time.perf_counter()
            self.model(input_ids=tokens, use_cache=True, logits_to_keep=1)
            return time.perf_counter() - started

    def decode(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.vocabulary)
        with self.torch.no_grad():
            output = self.model(input_ids=tokens, use_cache=True, logits_to_keep=1)
            started = time.perf_counter()
            for _ in range(DECODE_STEPS):
                following = output.logits[:, -1:].argmax(-1)
                output = self.model(input_ids=following, past_key_values=output.past_key_values, use_cache=True)
            return time.perf_counter() - started


def machine_limits() -> dict[str, float]:
    """FLOP/s of a float32 product, and bytes per second of reading."""
    import torch

    size = 2048
    one, other = torch.randn(size, size), torch.randn(size, size)
    large = torch.randn(1 << 27)
    best = {"flops": 0.0, "bytes": 0.0}
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(one, other)
        best["flops"] = max(best["flops"], 2 * size**3 / (time.perf_counter() - started))
        started = time.perf_counter()
        large.sum()
        best["bytes"] = max(best["bytes"], large.nbytes / (time.perf_counter() - started))
    return best


def peak_memory() -> int:
    """Peak memory of this process in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


def work(name: str, threads: int) -> None:
    """Answer lines of JSON on standard input until it ends."""
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    tool: Tool | None = None if name == "machine" else {"ours": Ours, "transformers": Transformers}[name]()
    for line in sys.stdin:
        task = line.strip()
        if tool is None:
            answer: dict[str, Any] = machine_limits()
        else:
            kind, _, size = task.partition("-")
            batch, length = (int(number) for number in size.replace("@", "x").split("x"))
            answer = {"seconds": getattr(tool, kind)(batch, length), "memory": peak_memory()}
            answer["selected"] = getattr(tool, "selected", 0.0)
        print(json.dumps(answer), flush=True)


class Worker:
    """A tool in a process of its own."""

    def __init__(self, name: str, threads: int) -> None:
        command = [sys.executable, __file__, "--worker", name, "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, task: str) -> dict[str, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(task + "\n")
        self.process.stdin.flush()
        answer: dict[str, float] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def tokens_in(task: str) -> int:
    kind, _, size = task.partition("-")
    batch, length = (int(number) for number in size.replace("@", "x").split("x"))
    return batch * (DECODE_STEPS if kind == "decode" else length)


def training_flops(length: int, selected: float) -> float:
    """FLOPs per token: three passes over the matrices that it used, and causal attention."""
    from longcat.model.accounting import count
    from longcat.model.presets import load_preset

    config = load_preset(PRESET)
    counted = count(config, context=length)
    expert = 3 * config.hidden_size * config.expert_ffn_hidden_size
    difference = config.num_layers * (selected - counted.mean_ffn_experts) * expert
    return counted.flops_per_token_train + 6 * difference


def decode_bytes(batch: int, context: int) -> float:
    """Bytes that one step of decode must read: dense weights, the experts selected on average, and the cache."""
    from longcat.model.accounting import count
    from longcat.model.presets import load_preset

    config = load_preset(PRESET)
    counted = count(config)
    chance = 1 - (1 - config.moe_topk / config.num_experts) ** batch
    experts = chance * counted.parameters["experts"]
    return 4 * (counted.activated_min + experts) + batch * context * 2 * counted.kv_bytes_per_token


def measure(tasks: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Run every task with every tool in every round, in new processes per task; memory is read after training."""
    samples: dict[str, dict[str, list[float]]] = {task: {tool: [] for tool in TOOLS} for task in tasks}
    limits: list[dict[str, float]] = []
    memory: dict[str, float] = {}
    selected = 0.0
    machine = Worker("machine", threads)
    for task in tasks:
        workers = {tool: Worker(tool, threads) for tool in TOOLS}
        for worker in workers.values():
            worker.ask(task)
        for _ in range(rounds):
            limits.append(machine.ask("limits"))
            for tool, worker in workers.items():
                answer = worker.ask(task)
                samples[task][tool].append(answer["seconds"])
                if task.startswith("train"):
                    memory[tool] = answer["memory"]
                    selected = answer["selected"] or selected
        for worker in workers.values():
            worker.close()
    machine.close()
    peak = {key: statistics.median(limit[key] for limit in limits) for key in limits[0]}
    return {"samples": samples, "peak": peak, "memory": memory, "selected_experts": selected}


def rows(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per task: tokens per second of both tools, their ratio, and the fraction of the limit reached by ours."""
    result = []
    for task, seconds in measured["samples"].items():
        middle = {tool: statistics.median(values) for tool, values in seconds.items()}
        row: dict[str, Any] = {"task": task}
        row |= {tool: tokens_in(task) / value for tool, value in middle.items()}
        row["ratio"] = middle["transformers"] / middle["ours"]
        kind, _, size = task.partition("-")
        batch, length = (int(number) for number in size.replace("@", "x").split("x"))
        if kind == "train":
            flops = training_flops(length, measured["selected_experts"]) * batch * length
            row["share_of_peak"] = flops / middle["ours"] / measured["peak"]["flops"]
        if kind == "decode":
            bound = decode_bytes(batch, length) / measured["peak"]["bytes"]
            row["share_of_peak"] = bound * DECODE_STEPS / middle["ours"]
        result.append(row)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.threads)
        return
    measured = measure(given.tasks.split(","), given.rounds, given.threads)
    table = rows(measured)
    print("| task | transformers tok/s | ours tok/s | ratio | of the limit |\n|---|---|---|---|---|")
    for row in table:
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        print(f"| {row['task']} | {row['transformers']:.1f} | {row['ours']:.1f} | {row['ratio']:.2f} | {share} |")
    peak, memory = measured["peak"], measured["memory"]
    print(f"\nfloat32 product {peak['flops'] / 1e9:.0f} GFLOP/s, reading {peak['bytes'] / 1e9:.1f} GB/s")
    if memory:
        print(", ".join(f"peak memory of training, {tool}: {memory[tool] / 2**30:.2f} GiB" for tool in TOOLS))
        print(f"FFN experts selected per token and layer in training: {measured['selected_experts']:.2f}")
    if given.output:
        given.output.write_text(json.dumps({"rows": table, **measured}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
