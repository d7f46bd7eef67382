"""Cross entropy of an output projection on a CPU: ours compared with torch, forward and backward, time and memory.

Every round runs each implementation once on the same values; the table shows CPU seconds, medians, and the peak memory
above the start of a run (without inputs, with gradients). Before timing, every implementation is checked against
float64.

    python benchmarks/kernel_cross_entropy.py [--tokens 2048] [--width 256] [--vocab 32768] [--runs 5] [--threads 1]
        [--chunks 16 64 256] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from longcat.kernels.cross_entropy import cpu as cross_entropy
from longcat.kernels.linear_cross_entropy import cpu as linear_cross_entropy

IGNORE = -100
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def implementations(chunks: list[int]) -> dict[str, Loss]:
    """Implementations of the summed loss by name; the first is the baseline."""
    found: dict[str, Loss] = {
        "torch linear + cross_entropy": lambda x, w, t: F.cross_entropy(F.linear(x, w), t, reduction="sum"),
        "torch linear_cross_entropy": lambda x, w, t: F.linear_cross_entropy(x, w, t, reduction="sum"),
        "torch linear_cross_entropy, options": lambda x, w, t: F.linear_cross_entropy(
            x, w, t, reduction="sum", options=torch.nn.LinearCrossEntropyOptions()
        ),
        "linear + our cross_entropy": lambda x, w, t: cross_entropy.cross_entropy(F.linear(x, w), t, IGNORE, 0.0)[0],
        "ours": lambda x, w, t: linear_cross_entropy.linear_cross_entropy(x, w, t, 0.0, IGNORE)[0],
    }
    for mib in chunks:
        found[f"ours, chunks of {mib} MiB"] = lambda x, w, t, mib=mib: linear_cross_entropy.linear_cross_entropy(
            x, w, t, 0.0, IGNORE, chunk_mib=mib
        )[0]
    return found


def run(loss: Loss, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    hidden, weight, targets = inputs
    total = loss(hidden, weight, targets) / len(targets)
    return [total.detach(), *torch.autograd.grad(total, (hidden, weight))]


def gate(losses: dict[str, Loss], width: int) -> None:
    """Exit if an implementation is wrong: the speed of a wrong result is meaningless."""
    torch.manual_seed(1)
    hidden, weight, targets = torch.randn(37, width), torch.randn(1031, width) / width**0.5, torch.arange(37) * 27
    targets[5] = IGNORE
    doubled = [hidden.double().requires_grad_(), weight.double().requires_grad_(), targets]
    exact = run(next(iter(losses.values())), doubled)
    for name, loss in losses.items():
        results = run(loss, [hidden.requires_grad_(), weight.requires_grad_(), targets])
        for ours, expected in zip(results, exact, strict=True):
            error = (ours.double() - expected).norm() / expected.norm()
            if not error < 2e-6:
                raise SystemExit(f"{name} is off by {error:.1e}")


def status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def measure(loss: Loss, inputs: list[torch.Tensor]) -> tuple[float, float]:
    """Return (CPU seconds, peak MiB above the start)."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak to the current size
    before, started = status_mib("VmRSS"), time.process_time()
    results = run(loss, inputs)
    seconds = time.process_time() - started
    peak = status_mib("VmHWM") - before
    del results
    return seconds, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("tokens", 2048), ("width", 256), ("vocab", 32768), ("runs", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--chunks", type=int, nargs="*", default=[16, 64, 256], help="MiB of logits per chunk, each measured"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    losses = implementations(options.chunks)
    gate(losses, options.width)
    torch.manual_seed(0)
    hidden = torch.randn(options.tokens, options.width).requires_grad_()
    weight = (torch.randn(options.vocab, options.width) * 0.02).requires_grad_()
    inputs = [hidden, weight, torch.randint(options.vocab, (options.tokens,))]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in losses}
    for number in range(options.runs + 1):
        for name, loss in losses.items():
            figures = measure(loss, inputs)
            if number:  # the first round warms up
                found[name].append(figures)
    logits = options.tokens * options.vocab * 4 / 2**20
    work = 6 * options.tokens * options.vocab * options.width
    print(f"{options.tokens} tokens, width {options.width}, vocabulary {options.vocab}: logits of {logits:.0f} MiB")
    print(f"{'':36} {'CPU s':>8} {'min':>8} {'max':>8} {'GFLOP/s':>8} {'ratio':>6} {'MiB':>6}")
    rows: dict[str, Any] = {}
    base = statistics.median(seconds for seconds, _ in next(iter(found.values())))
    for name, figures in found.items():
        seconds = [second for second, _ in figures]
        middle, peak = statistics.median(seconds), statistics.median(mib for _, mib in figures)
        rate, ratio = work / middle / 1e9, base / middle
        print(f"{name:36} {middle:8.3f} {min(seconds):8.3f} {max(seconds):8.3f} {rate:8.1f} {ratio:6.2f} {peak:6.0f}")
        rows[name] = {"seconds": seconds, "peak_mib": peak, "speed_against_torch": ratio}
    if options.output:
        result = {"options": {key: str(value) for key, value in vars(options).items()}, "implementations": rows}
        options.output.write_text(json.dumps(result | {"load": os.getloadavg()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
