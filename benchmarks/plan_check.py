"""Memory and time of three small trainings on this machine: predicted by `longcat plan`, and used by `longcat train`.

Every run is one process on one thread, in float32, on tokens of facts. The plan is that of the trained checkpoint on
`--device cpu`, whose rates are measured at that moment; to its memory that of the process before the run is added, of
which a plan knows nothing. The time depends on the assumed efficiency, for which the default of the plan is taken, and
on what else runs on the machine; the efficiency that the run reached is shown beside it.

    python benchmarks/plan_check.py [--steps 20] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from long_step import command, make_tokens

# Preset, tokens per sequence, sequences per step and per forward pass.
RUNS = (("tiny", 256, 8, 8), ("demo", 256, 8, 8), ("tiny-long", 2048, 4, 1))
GIB = 1 << 30
BEFORE = "import psutil, longcat.stages.train.run; print(psutil.Process().memory_info().rss)"


def memory_before() -> int:
    """Bytes of a process that has loaded what trains, before it has a model."""
    line = [sys.executable, "-c", BEFORE]
    return int(subprocess.run(line, capture_output=True, check=True, text=True).stdout)


def check(store: Path, run: tuple[str, int, int, int], steps: int, before: int) -> dict[str, Any]:
    """Train, and plan the checkpoint that was trained."""
    preset, length, batch, micro = run
    shape = ("--sequence-length", str(length), "--batch-size", str(batch), "--micro-batch-size", str(micro))
    settings = ("threads=1", "device=cpu", "dtype=float32", "stability.every=0", "evaluation.windows=1")
    given = [word for one in settings for word in ("--set", one)]
    made = command(store, "train", "--tokens", "tokens", "--preset", preset, *shape, "--steps", str(steps), *given)
    found = command(store, "artifacts", "show", made["id"])["performance"]
    same = (
        "--sequence-length",
        str(length),
        "--batch-tokens",
        str(batch * length),
        "--tokens",
        str(steps * batch * length),
    )
    fixed = (f"micro_batch_size={micro}", "activation_checkpointing=none")
    options = [word for one in fixed for word in ("--layout", one)]
    one = ("--device", "cpu", "--devices", "1", "--set", "dtype=float32")
    plan = command(store, "plan", made["id"], *one, *same, *options)
    return {
        "preset": preset,
        "memory": {"predicted": before + plan["memory"][0]["total"], "measured": found["peak_memory_bytes"]},
        "seconds": {"predicted": plan["step"]["seconds"], "measured": found["step_seconds"]},
        "efficiency": plan["assumptions"]["efficiency"] * plan["step"]["seconds"] / found["step_seconds"],
        "peak": plan["device"]["float32"],
    }


def off(figures: dict[str, float]) -> str:
    return f"{figures['predicted'] / figures['measured'] - 1:+.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    before = memory_before()
    with tempfile.TemporaryDirectory() as name:
        make_tokens(Path(name), max(length for _, length, *_ in RUNS))
        rows = [check(Path(name), run, options.steps, before) for run in RUNS]
    print("preset     memory, GiB: predicted  measured    off   step, s: predicted  measured    off  efficiency")
    for row in rows:
        memory, seconds = row["memory"], row["seconds"]
        print(
            f"{row['preset']:10}{memory['predicted'] / GIB:23.3f}{memory['measured'] / GIB:10.3f}{off(memory):>7}"
            f"{seconds['predicted']:20.3f}{seconds['measured']:10.3f}{off(seconds):>7}{row['efficiency']:12.2f}"
        )
    if options.output:
        options.output.write_text(json.dumps({"before": before, "runs": rows}, indent=2))


if __name__ == "__main__":
    main()
