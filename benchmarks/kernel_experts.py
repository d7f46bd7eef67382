"""Many experts, forward and backward: ours compared with a loop over indexed weights and one dense FFN of equal work.

The loop is what most implementations do: one expert after another, `weights[expert]`, whose gradient fills the whole
stack each time. The dense FFN has the same width and as many rows as all experts together, so it is the upper bound for
grouping. Rounds are interleaved, medians shown, GFLOP/s of 18 * rows * width * inner operations.

    python benchmarks/kernel_experts.py [--experts 64] [--rows 64] [--width 256] [--inner 256] [--runs 9] [--threads 1]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from longcat.kernels.grouped_mlp import grouped_mlp
from longcat.kernels.linear import linear
from longcat.kernels.swiglu import swiglu

Network = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def indexed_loop(ends: list[int]) -> Network:
    def network(rows_RD: torch.Tensor, gate_up_NGD: torch.Tensor, down_NDF: torch.Tensor) -> torch.Tensor:
        pieces, start = [], 0
        for expert, end in enumerate(ends):
            gate, up = F.linear(rows_RD[start:end], gate_up_NGD[expert]).chunk(2, dim=-1)
            pieces.append(F.linear(F.silu(gate) * up, down_NDF[expert]))
            start = end
        return torch.cat(pieces)

    return network


def dense(rows_RD: torch.Tensor, gate_up_1GD: torch.Tensor, down_1DF: torch.Tensor) -> torch.Tensor:
    gate, up = linear(rows_RD, gate_up_1GD[0]).chunk(2, dim=-1)
    return linear(swiglu(gate, up), down_1DF[0])


def seconds_of(network: Network, inputs: list[torch.Tensor]) -> float:
    started = time.process_time()
    output = network(*inputs)
    torch.autograd.grad(output, inputs, torch.ones_like(output))
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("experts", 64), ("rows", 64), ("width", 256), ("inner", 256), ("runs", 9), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    rows = given.experts * given.rows
    ends = torch.arange(given.rows, rows + 1, given.rows, dtype=torch.int32)

    def inputs_of(experts: int) -> list[torch.Tensor]:
        shapes = ((rows, given.width), (experts, 2 * given.inner, given.width), (experts, given.width, given.inner))
        return [torch.randn(*shape).requires_grad_() for shape in shapes]

    many, one = inputs_of(given.experts), inputs_of(1)
    networks: dict[str, tuple[Network, list[torch.Tensor]]] = {
        "one dense network": (dense, one),
        "ours": (lambda x, gate_up, down: grouped_mlp(x, gate_up, down, ends), many),
        "indexed loop": (indexed_loop(ends.tolist()), many),
    }
    samples: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(given.runs + 1):
        for name, (network, inputs) in networks.items():
            samples[name].append(seconds_of(network, inputs))
    work = 18 * rows * given.width * given.inner / 1e9
    middle = {name: statistics.median(values[1:]) for name, values in samples.items()}
    print(f"{given.experts} experts, {given.rows} rows each, width {given.width}, inner {given.inner}")
    print(f"{'':18} {'GFLOP/CPU s':>12} {'of dense':>9}")
    for name, value in middle.items():
        print(f"{name:18} {work / value:12.1f} {middle['one dense network'] / value:9.2f}")
    if given.output:
        given.output.write_text(json.dumps({"gigaflop": work, "cpu_seconds": samples}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
