"""Training, prefill and decode of `lc-100m`: ours compared with transformers and the limits of the machine.

Each tool runs in a process of its own, which waits while another one computes; rounds are interleaved and medians
shown. The limits are measured in the same run: the rate of a square float32 matrix product, and the bandwidth of
reading a large array. A training step is forward, backward, gradient norm, clipping and AdamW; its fraction of the peak
counts matrix products of the experts that were actually selected, and causal attention. The bound of decode is the time
to read, at that bandwidth, every weight used by the step and the cache once. Prefill ends with the logits of the last
token, as serving needs.

Tools are float32 without a suffix. `ours-bf16` is the trainer with dtype bfloat16 (float32 weights and moments, a
bfloat16 copy for products), `transformers-bf16` the same by autocast with float32 weights, `transformers-bf16-weights`
a model whose weights and moments are bfloat16 too. These only train. Ratios are those of the first tool to the others.

    python benchmarks/model_speed.py [--tasks train-4x512,...] [--tools ours-bf16,transformers,...] [--rounds 5]
        [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from worker_process import Worker

TASKS = ("train-4x512", "prefill-1x512", "prefill-1x2048", "decode-1@128", "decode-1@2048", "decode-8@128")
TOOLS = ("ours", "transformers")
TRAINED = ("ours-bf16", "transformers-bf16", "transformers-bf16-weights")  # these only train
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
    def __init__(self, dtype: str = "float32") -> None:
        import torch

        from longcat.model.init import initialize
        from longcat.model.presets import load_preset
        from longcat.model.rows import Rows
        from longcat.model.transformer import LongcatFlash
        from longcat.stages.train.config import OptimizerOptions
        from longcat.stages.train.optim.adamw import build_optimizer
        from longcat.stages.train.optim.precision import ComputeModel
        from longcat.stages.train.parallel.build import whole
        from longcat.stages.train.parallel.norms import clip_factor, gradient_norm

        self.config = load_preset(PRESET)
        self.model = LongcatFlash(self.config)
        initialize(self.model, seed=0)
        self.torch, self.rows = torch, Rows
        self.held = whole(self.model, torch.device("cpu"), getattr(torch, dtype))
        self.compute = ComputeModel(self.held)
        self.optimizer = build_optimizer(self.held, OptimizerOptions())
        self.norm, self.factor = gradient_norm, clip_factor
        self.selected = 0.0

    def train(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length + 1, self.config.vocab_size)
        started = time.perf_counter()
        loss, count, output = self.compute.model.loss(tokens[:, :-1], tokens[:, 1:])
        (loss / count).backward()
        self.compute.collect_gradients()
        norm = self.norm(self.model.parameters(), self.held.parallel)
        self.compute.update(self.optimizer, self.factor(norm, 1.0))
        self.compute.refresh()
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
    def __init__(self, *, autocast: bool = False, weights: str = "float32") -> None:
        import torch
        from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

        from longcat.model.presets import load_preset

        self.vocabulary, self.autocast = load_preset(PRESET).vocab_size, autocast
        model = LongcatFlashForCausalLM(LongcatFlashConfig(**load_preset(PRESET).to_dict()))
        self.model = model.to(getattr(torch, weights))
        self.torch = torch
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0)

    def train(self, batch: int, length: int) -> float:
        tokens = tokens_of(batch, length, self.vocabulary)
        started = time.perf_counter()
        with self.torch.autocast("cpu", self.torch.bfloat16, enabled=self.autocast):
            loss = self.model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
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


MAKE: dict[str, Callable[[], Tool | None]] = {
    "machine": lambda: None,
    "ours": Ours,
    "ours-bf16": lambda: Ours("bfloat16"),
    "transformers": Transformers,
    "transformers-bf16": lambda: Transformers(autocast=True),
    "transformers-bf16-weights": lambda: Transformers(weights="bfloat16"),
}


def processor() -> str:
    """Name of the processor, and the units for bfloat16 it lists."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    units = [unit for unit in ("avx512_bf16", "amx_bf16") if unit in fields.get("flags", "").split()]
    return f"{fields.get('model name', 'unknown')}, {', '.join(units) or 'no bfloat16 units'}"


def work(name: str, threads: int) -> None:
    """Answer lines of JSON on standard input until it ends."""
    import torch

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    tool = MAKE[name]()
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


def measure(tasks: list[str], tools: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Run every task with every tool in every round, in new processes per task; memory is read after training."""
    samples: dict[str, dict[str, list[float]]] = {task: {tool: [] for tool in tools} for task in tasks}
    limits: list[dict[str, float]] = []
    memory: dict[str, float] = {}
    selected = 0.0
    machine = Worker(__file__, "machine", threads)
    for task in tasks:
        workers = {tool: Worker(__file__, tool, threads) for tool in tools}
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
    """One row per task: tokens per second, the first tool's to the others', and its fraction of the limit."""
    result = []
    for task, seconds in measured["samples"].items():
        middle = {tool: statistics.median(values) for tool, values in seconds.items()}
        row: dict[str, Any] = {"task": task}
        row |= {tool: tokens_in(task) / value for tool, value in middle.items()}
        first, *others = middle
        row["ratios"] = {other: middle[other] / middle[first] for other in others}
        kind, _, size = task.partition("-")
        batch, length = (int(number) for number in size.replace("@", "x").split("x"))
        if kind == "train":
            flops = training_flops(length, measured["selected_experts"]) * batch * length
            row["share_of_peak"] = flops / middle[first] / measured["peak"]["flops"]
        if kind == "decode":
            bound = decode_bytes(batch, length) / measured["peak"]["bytes"]
            row["share_of_peak"] = bound * DECODE_STEPS / middle[first]
        result.append(row)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.threads)
        return
    tools = given.tools.split(",")
    if unknown := set(tools) - MAKE.keys():
        parser.error(f"unknown tool {min(unknown)}; one of {', '.join(MAKE.keys() - {'machine'})}")
    if set(tools) & set(TRAINED) and any(not task.startswith("train") for task in given.tasks.split(",")):
        parser.error(f"{', '.join(TRAINED)} only train: name --tasks train-4x512")
    print(processor(), f"{given.threads} threads", sep="; ")
    measured = measure(given.tasks.split(","), tools, given.rounds, given.threads)
    table = rows(measured)
    first = tools[0]
    print(f"| task | {' tok/s | '.join(tools)} tok/s | {first} to the others | of the limit |")
    print("|---" * (len(tools) + 3) + "|")
    for row in table:
        share = f"{row['share_of_peak']:.0%}" if "share_of_peak" in row else ""
        speeds = " | ".join(f"{row[tool]:.1f}" for tool in tools)
        ratios = ", ".join(f"{ratio:.2f}" for ratio in row["ratios"].values())
        print(f"| {row['task']} | {speeds} | {ratios} | {share} |")
    peak, memory = measured["peak"], measured["memory"]
    print(f"\nfloat32 product {peak['flops'] / 1e9:.0f} GFLOP/s, reading {peak['bytes'] / 1e9:.1f} GB/s")
    if memory:
        print("peak memory of training:", ", ".join(f"{tool} {memory[tool] / 2**30:.2f} GiB" for tool in tools))
        print(f"FFN experts selected per token and layer in training: {measured['selected_experts']:.2f}")
    if given.output:
        given.output.write_text(json.dumps({"rows": table, **measured}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
