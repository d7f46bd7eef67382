"""CPU seconds and peak memory of attention modules over long rows: gated delta rule against dense latent attention.

Modules of `tiny-long` (projections, convolutions and gates included), forward and backward, in float32 on one thread:
`chunks` is the version for CPUs, `recurrent` the same module token by token, `dense` latent attention. Every
measurement has a process of its own, so that its peak is its own; rounds are interleaved, and figures are medians of
CPU time. The recurrent one is measured without its backward pass beyond 8,192 tokens, because autograd would keep a
state for every token.

    python benchmarks/delta_rule.py [--lengths 8192,32768,131072] [--rounds 3] [--rule kda] [--head-dim 32]
        [--only chunks,dense] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PRESET = "tiny-long"
KINDS = ("chunks", "recurrent", "dense")
RECURRENT_BACKWARD = 8192  # tokens
TARGET_TIMES, TARGET_BYTES = 5, 12 << 30


def measure(kind: str, length: int, rule: str, head_dim: int) -> dict[str, float]:
    """CPU seconds of the forward and the backward pass, and the largest resident memory of this process."""
    os.environ["LONGCAT_KERNELS"] = "delta_rule=reference" if kind == "recurrent" else ""
    import torch

    from longcat.model.config import ModelConfig
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash

    torch.set_num_threads(1)
    torch.manual_seed(0)
    attention = None if kind == "dense" else {"kind": "delta", "rule": rule, "head_dim": head_dim}
    model = LongcatFlash(ModelConfig(**{**load_preset(PRESET).model_dump(), "attention": attention}))
    initialize(model, 0)
    x_1TD = torch.randn(1, length, model.config.hidden_size, requires_grad=True)
    where = model.context(torch.zeros(1, length, dtype=torch.int64))
    differentiated = kind != "recurrent" or length <= RECURRENT_BACKWARD
    with torch.set_grad_enabled(differentiated):
        began = time.process_time()
        y_1TD = model.model.layers[0].self_attn[0](x_1TD, where).y_BTD
        middle = time.process_time()
        if differentiated:
            y_1TD.backward(torch.ones_like(y_1TD))
    backward = time.process_time() - middle if differentiated else float("nan")
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"forward": middle - began, "backward": backward, "peak_bytes": peak}


def measured(kinds: list[str], lengths: list[int], given: argparse.Namespace) -> list[dict[str, Any]]:
    """Medians over the rounds, by length and kind."""
    samples: dict[tuple[int, str], list[dict[str, float]]] = {(n, kind): [] for n in lengths for kind in kinds}
    os.environ["OMP_NUM_THREADS"] = "1"  # read by libraries when the process starts
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for number in range(given.rounds):
            for length, kind in sorted(samples, reverse=bool(number % 2)):
                found = pool.submit(measure, kind, length, given.rule, given.head_dim).result()
                samples[length, kind].append(found)
                print(number, kind, length, {key: round(value, 2) for key, value in found.items()}, flush=True)
    return [
        {"length": length, "kind": kind, "rounds": rounds}
        | {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}
        for (length, kind), rounds in samples.items()
    ]


def print_table(rows: list[dict[str, Any]]) -> None:
    """A row per length and kind; `times` is the time of dense attention over that of the row."""
    print(f"{'tokens':>8} {'kind':>10} {'forward s':>10} {'backward s':>11} {'both s':>9} {'times':>7} {'peak GiB':>9}")
    dense = {row["length"]: row["forward"] + row["backward"] for row in rows if row["kind"] == "dense"}
    for row in rows:
        both = row["forward"] + row["backward"]
        times = dense.get(row["length"], float("nan")) / both
        print(
            f"{row['length']:8,} {row['kind']:>10} {row['forward']:10.2f} {row['backward']:11.2f} {both:9.2f} "
            f"{times:7.1f} {row['peak_bytes'] / 2**30:9.2f}"
        )
    print(f"target at 131,072 tokens: at least {TARGET_TIMES} times, at most {TARGET_BYTES >> 30} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="8192,32768,131072")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rule", default="kda")
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--only", default=",".join(KINDS), help="kinds, separated by commas")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()

    from longcat.pipeline.environment import environment

    rows = measured(given.only.split(","), [int(length) for length in given.lengths.split(",")], given)
    here = environment()
    print(f"{PRESET}, {given.rule}, heads of {given.head_dim}; {here['processor']}, {here['instructions']}")
    print_table(rows)
    if given.output:
        text = json.dumps({**here, "rule": given.rule, "head_dim": given.head_dim, "rows": rows}, indent=2)
        given.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
