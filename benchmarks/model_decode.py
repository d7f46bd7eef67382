"""Decode and prefill of `lc-100m` without a server: our forms of packed weights, our plain model, and transformers.

Each tool runs in a process of its own, which waits while another one computes. Every round measures every tool on every
task once; the table shows the least time, since other processes of the machine can only add to it, and the JSON has
all. Decode steps continue a cached text, which is cut back after every measurement. The bound of decode is the time to
read, at the bandwidth measured in the run, the packed matrices with the experts that the step selected, the other
weights that it uses, and the cache once.

    python benchmarks/model_decode.py [--tools transformers,plain,fp32,...] [--tasks decode-1@128,...] [--rounds 9]
        [--threads 2] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from worker_process import Worker

TASKS = ("decode-1@128", "decode-8@128", "decode-1@2048", "prefill-1x512", "prefill-1x2048")
TOOLS = ("transformers", "plain", "fp32", "fp16", "bf16", "int8", "int4")
STEPS = 16
PRESET = "lc-100m"
FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_bf16", "amx_int8")


class Ours:
    """Our model with packed weights of a form, or as it is."""

    def __init__(self, weights: str) -> None:
        import torch

        from longcat.model.init import initialize
        from longcat.model.packed.prepare import prepare
        from longcat.model.presets import load_preset
        from longcat.model.rows import Rows
        from longcat.model.transformer import LongcatFlash

        self.torch = torch
        self.config = load_preset(PRESET)
        self.model = LongcatFlash(self.config)
        initialize(self.model, seed=0)
        self.model.requires_grad_(False)
        self.report = None if weights == "plain" else prepare(self.model, weights)  # type: ignore[arg-type]
        self.make_rows = partial(Rows, self.model)
        self.rows: dict[str, Rows] = {}

    def prefill(self, ids: Any) -> float:
        with self.torch.inference_mode():
            started = time.perf_counter()
            self.make_rows(*ids.shape).append(ids, logits_to_keep=1)
            return time.perf_counter() - started

    def decode(self, task: str, ids: Any) -> float:
        with self.torch.inference_mode():
            if task not in self.rows:
                self.rows[task] = self.make_rows(ids.shape[0], ids.shape[1] + STEPS)
                self.rows[task].append(ids, logits_to_keep=1)
            rows, following = self.rows[task], ids[:, -1:]
            started = time.perf_counter()
            for _ in range(STEPS):
                following = rows.append(following).logits.argmax(-1)
            seconds = time.perf_counter() - started
            rows.rewind(ids.shape[1])
            return seconds

    def step_bytes(self, task: str, ids: Any) -> float:
        """Bytes that the first step of decode must read."""
        with self.torch.inference_mode():
            self.decode(task, ids)
            rows = self.rows[task]
            routing = rows.append(ids[:, -1:]).routing
            rows.rewind(ids.shape[1])
        experts = self.config.n_routed_experts
        used = sum(len(set(layer.experts_TK[layer.experts_TK < experts].tolist())) for layer in routing)
        share = used / (experts * self.config.num_layers)
        packed = self.report
        assert packed is not None
        total = sum(path.nbytes * (share if path.part == "experts" else 1.0) for path in packed.paths)
        for name, parameter in self.model.named_parameters():
            total += 0 if "embed_tokens" in name else parameter.nbytes
        return total + ids.numel() * rows.cache.bytes_per_page / rows.cache.page_size


class Transformers:
    """The peer, float32 or bfloat16, with random weights."""

    def __init__(self, dtype: str) -> None:
        import torch
        from transformers import LongcatFlashConfig, LongcatFlashForCausalLM

        from longcat.model.presets import load_preset

        self.torch = torch
        self.config = load_preset(PRESET)
        model = LongcatFlashForCausalLM(LongcatFlashConfig(**self.config.to_dict()))
        self.model = model.to(getattr(torch, dtype)).eval()
        self.caches: dict[str, Any] = {}

    def prefill(self, ids: Any) -> float:
        with self.torch.inference_mode():
            started = time.perf_counter()
            self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
            return time.perf_counter() - started

    def decode(self, task: str, ids: Any) -> float:
        with self.torch.inference_mode():
            if task not in self.caches:
                output = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
                self.caches[task] = output.past_key_values
            cache, following = self.caches[task], ids[:, -1:]
            started = time.perf_counter()
            for _ in range(STEPS):
                output = self.model(input_ids=following, past_key_values=cache, use_cache=True)
                following = output.logits[:, -1:].argmax(-1)
            seconds = time.perf_counter() - started
            cache.crop(-STEPS)
            return seconds


def bandwidth() -> float:
    """Bytes per second of reading a large array."""
    import torch

    large = torch.randn(1 << 26)
    best = 0.0
    for _ in range(5):
        started = time.perf_counter()
        large.sum()
        best = max(best, large.nbytes / (time.perf_counter() - started))
    return best


def shape_of(task: str) -> tuple[str, int, int]:
    kind, _, size = task.partition("-")
    batch, length = (int(number) for number in size.replace("@", "x").split("x"))
    return kind, batch, length


def work(name: str, threads: int) -> None:
    """Answer lines of JSON on standard input until it ends."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    tool: Any = None
    if name.startswith("transformers"):
        tool = Transformers("bfloat16" if name.endswith("bf16") else "float32")
    elif name != "machine":
        tool = Ours(name)
    for line in sys.stdin:
        task = line.strip()
        if task == "report":
            report = getattr(tool, "report", None)
            answer: dict[str, Any] = {"lines": [] if report is None else report.lines()}
        elif tool is None:
            answer = {"bytes": bandwidth()}
        else:
            kind, batch, length = shape_of(task.removesuffix(" bytes"))
            generator = torch.Generator().manual_seed(length)
            ids = torch.randint(tool.config.vocab_size, (batch, length), generator=generator)
            if task.endswith(" bytes"):
                answer = {"bytes": tool.step_bytes(task.removesuffix(" bytes"), ids)}
            else:
                answer = {"seconds": tool.prefill(ids) if kind == "prefill" else tool.decode(task, ids)}
        print(json.dumps(answer), flush=True)


def measure(tools: list[str], tasks: list[str], rounds: int, threads: int) -> dict[str, Any]:
    """Seconds of every task and tool in every round, the bandwidth of every round, and the bytes of decode steps."""
    seconds: dict[str, dict[str, list[float]]] = {task: {tool: [] for tool in tools} for task in tasks}
    machine, workers = Worker(__file__, "machine", threads), {tool: Worker(__file__, tool, threads) for tool in tools}
    reports = {tool: worker.ask("report")["lines"] for tool, worker in workers.items()}
    needed: dict[str, dict[str, float]] = {}
    for task in tasks:
        for worker in workers.values():
            worker.ask(task)
        if task.startswith("decode"):
            needed[task] = {tool: workers[tool].ask(f"{task} bytes")["bytes"] for tool in tools if reports[tool]}
    bandwidths = []
    for number in range(rounds):
        bandwidths.append(machine.ask("limits")["bytes"])
        for task in tasks:
            # Another tool comes first in every round.
            for place in range(len(tools)):
                tool = tools[(place + number) % len(tools)]
                seconds[task][tool].append(workers[tool].ask(task)["seconds"])
    for worker in (machine, *workers.values()):
        worker.close()
    return {"seconds": seconds, "bandwidth": max(bandwidths), "bytes": needed, "reports": reports}


def tokens_in(task: str) -> int:
    kind, batch, length = shape_of(task)
    return batch * (STEPS if kind == "decode" else length)


def rows(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per task and tool: tokens per second, ratio to transformers and our fp32, share of the bound."""
    result = []
    for task, by_tool in measured["seconds"].items():
        least = {tool: min(values) for tool, values in by_tool.items()}
        for tool, value in least.items():
            row: dict[str, Any] = {"task": task, "tool": tool, "tokens_per_second": tokens_in(task) / value}
            row["median_tokens_per_second"] = tokens_in(task) / statistics.median(by_tool[tool])
            row |= {f"over {name}": least[name] / value for name in ("transformers", "fp32") if name in least}
            if tool in measured["bytes"].get(task, {}):
                bound = STEPS * measured["bytes"][task][tool] / measured["bandwidth"]
                row["share_of_bound"] = bound / value
            result.append(row)
    return result


def processor() -> dict[str, Any]:
    """Model and flags of the processor."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {"model": platform.processor(), "flags": []}
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in facts.items()}
    present = named.get("flags", "").split()
    return {"model": named.get("model name", ""), "flags": [flag for flag in FLAGS if flag in present]}


def print_table(table: list[dict[str, Any]]) -> None:
    print("| task | tool | tok/s | over transformers | over fp32 | of the bound |\n|---|---|---|---|---|---|")
    for row in table:
        ratios = (f"{row[key]:.2f}" if key in row else "" for key in ("over transformers", "over fp32"))
        share = f"{row['share_of_bound']:.0%}" if "share_of_bound" in row else ""
        print(f"| {row['task']} | {row['tool']} | {row['tokens_per_second']:.1f} | {' | '.join(ratios)} | {share} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", default=",".join(TOOLS), help="also transformers-bf16")
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        work(given.worker, given.threads)
        return
    measured = measure(given.tools.split(","), given.tasks.split(","), given.rounds, given.threads)
    table, host = rows(measured), processor()
    print_table(table)
    print(f"\n{host['model']} ({', '.join(host['flags'])}), {given.threads} threads")
    print(f"reading {measured['bandwidth'] / 1e9:.1f} GB/s")
    if given.output:
        content = {"rows": table, "processor": host, "threads": given.threads, **measured}
        given.output.write_text(json.dumps(content, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
