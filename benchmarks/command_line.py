"""Latency of the command line, compared with an interpreter that does nothing.

Commands run as separate processes, interleaved; the table shows median wall seconds and their ratio to `python -c
pass`. With `--store`, which must hold a finished run of the recipe, a run that reuses everything is timed too.

    python benchmarks/command_line.py [--store longcat-store --recipe demo] [--runs 9] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path


def commands(store: Path | None, recipe: str) -> dict[str, list[str]]:
    longcat = [sys.executable, "-m", "longcat.cli"]
    found = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "import torch": [sys.executable, "-c", "import torch"],
        "longcat --help": [*longcat, "--help"],
        "longcat data filter --help": [*longcat, "data", "filter", "--help"],
        "longcat train --help": [*longcat, "train", "--help"],
    }
    if store is not None:
        found[f"longcat run {recipe} (all in the store)"] = [*longcat, "--store", str(store), "--quiet", "run", recipe]
        found[f"longcat run {recipe} --dry-run"] = [*longcat, "--store", str(store), "run", recipe, "--dry-run"]
    return found


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--store", type=Path)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    timed = commands(options.store, options.recipe)
    times: dict[str, list[float]] = {name: [] for name in timed}
    for round_number in range(options.runs + 1):
        for name, command in timed.items():
            elapsed = seconds(command)
            if round_number:  # the first round warms the file cache
                times[name].append(elapsed)
    floor = statistics.median(times["python -c pass"])
    rows = []
    print(f"{'command':44} {'median':>8} {'min':>8} {'max':>8} {'x floor':>8}")
    for name, values in times.items():
        middle = statistics.median(values)
        rows.append({"command": name, "median_seconds": middle, "seconds": values, "ratio_to_floor": middle / floor})
        print(f"{name:44} {middle:7.3f}s {min(values):7.3f}s {max(values):7.3f}s {middle / floor:7.1f}x")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
