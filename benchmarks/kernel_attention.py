"""Attention on a CPU, forward and backward, as a fraction of the rate of a large matrix product in the same run.

`ours` is the version for CPUs, `flash` is torch's `scaled_dot_product_attention` with values padded to the width of
keys, `single` is ours without groups of short documents, and `before` is our version of another commit (`--before
COMMIT`). Rounds are interleaved, and every measurement follows one of the product of two square matrices, by which it
is divided: other load of the machine affects both.
Counted are the two products of the forward and the five of the backward pass (the scores are computed again) for every
pair of a query and a key that it sees; padding and hidden pairs are not counted. One thread is timed by its CPU time,
several by the clock.

    python benchmarks/kernel_attention.py [--lengths 8192,32768] [--heads 2] [--widths 24,16] [--widths 192,128]
        [--dtype float32] [--rounds 5] [--threads 1] [--before COMMIT] [--only ours] [--documents 0]
        [--document-lengths 50,100] [--output FILE]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from longcat.kernels.mla_attention import DocumentBounds, cpu, document_bounds, sdpa

ROOT = Path(__file__).resolve().parent.parent
SIDE = 2048
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float, DocumentBounds | None], torch.Tensor]


def main() -> None:
    given = options()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    versions: dict[str, Attention] = {"ours": cpu.mla_attention, "flash": sdpa.mla_attention}
    if given.document_lengths:
        versions["single"] = cpu.tiled
    if given.before:
        versions["before"] = of_commit(given.before)
    if given.only:
        versions = {name: versions[name] for name in given.only.split(",")}
    print(
        f"{'widths':>9} {'length':>7} {'version':>8} {'forward':>8} {'backward':>9} {'both GFLOP/s':>13} {'of peak':>8}"
    )
    found = []
    for widths in given.widths or ["24,16", "192,128"]:
        for length in given.lengths.split(","):
            found += compare(versions, int(length), [int(width) for width in widths.split(",")], given)
    if given.output:
        given.output.write_text(json.dumps(found, indent=2), encoding="utf-8")


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8192,32768")
    parser.add_argument("--widths", action="append", help="of keys and of values")
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--before", help="a commit")
    parser.add_argument("--only", help="versions, separated by commas")
    parser.add_argument("--documents", type=int, default=0, help="number of documents of equal length in a row")
    parser.add_argument(
        "--document-lengths", help="smallest and largest; lengths are drawn at random until a row is full"
    )
    parser.add_argument("--output", type=Path)
    return parser.parse_args()


def of_commit(commit: str) -> Attention:
    """The CPU version of another commit, on the modules of this tree that it imports."""
    source = subprocess.check_output(["git", "show", f"{commit}:kernels/mla_attention/cpu.py"], cwd=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "attention_before.py"
        path.write_bytes(source)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    attention: Attention = module.mla_attention
    return attention


def compare(
    versions: dict[str, Attention], length: int, widths: list[int], given: argparse.Namespace
) -> list[dict[str, Any]]:
    keys, values = widths
    dtype = getattr(torch, given.dtype)
    inputs = [torch.randn(1, length, given.heads, width).to(dtype).requires_grad_() for width in (keys, keys, values)]
    grad = torch.randn(1, length, given.heads, values).to(dtype)
    bounds = bounds_of(length, given)
    documents = document_bounds(bounds, 1, length) if len(bounds) > 2 else None
    pairs = given.heads * sum(n * (n + 1) // 2 for n in bounds.diff().tolist())
    work = 2e-9 * pairs * (keys + values), 2e-9 * pairs * (3 * keys + 2 * values)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in versions}
    for number in range(given.rounds):
        for name in sorted(versions, reverse=bool(number % 2)):
            peak = product_rate(clock)
            began = clock()
            output = versions[name](*inputs, keys**-0.5, documents)
            middle = clock()
            torch.autograd.grad(output, inputs, grad)
            samples[name].append((middle - began, clock() - middle, (peak + product_rate(clock)) / 2))
    return [summary(name, length, widths, work, rounds) for name, rounds in samples.items()]


def bounds_of(length: int, given: argparse.Namespace) -> torch.Tensor:
    """Cumulative lengths of the documents of a row."""
    if given.document_lengths:
        low, high = map(int, given.document_lengths.split(","))
        inner_N = torch.randint(low, high + 1, (length // low,)).cumsum(0)
        return torch.cat((torch.zeros(1, dtype=torch.int64), inner_N[inner_N < length], torch.tensor([length])))
    parts = max(given.documents, 1)
    return torch.arange(parts + 1) * length // parts


def product_rate(clock: Callable[[], float]) -> float:
    """GFLOP/s of a product of square matrices, the best of three."""
    a, b = torch.randn(2, SIDE, SIDE).unbind()
    result = torch.empty(SIDE, SIDE)
    seconds = []
    for _ in range(3):
        began = clock()
        torch.mm(a, b, out=result)
        seconds.append(clock() - began)
    return 2e-9 * SIDE**3 / min(seconds)


def summary(
    name: str, length: int, widths: list[int], work: tuple[float, float], rounds: list[tuple[float, float, float]]
) -> dict[str, Any]:
    forward, backward = (statistics.median(part) for part in list(zip(*rounds, strict=True))[:2])
    both = statistics.median(sum(work) / (first + second) for first, second, _ in rounds)
    share = statistics.median(sum(work) / (first + second) / peak for first, second, peak in rounds)
    print(
        f"{'/'.join(map(str, widths)):>9} {length:7} {name:>8} {work[0] / forward:8.1f} {work[1] / backward:9.1f} "
        f"{both:13.1f} {share:8.1%}",
        flush=True,
    )
    return {"version": name, "length": length, "widths": widths, "gigaflop": work, "rounds": rounds, "share": share}


if __name__ == "__main__":
    main()
