"""Reading, writing and converting a checkpoint compared with transformers: seconds, and peak memory over weight size.

Every measurement is a separate process that imports its library, then resets the kernel's peak memory counter and
reports its growth. Interleaved; medians of the runs; one OpenMP thread for all, since copying needs no more and threads
that wait for a busy core would dominate the measurement. The default model is lc-100m in float32, 395 MB.
The peer reads the layout that it needs, with rows for zero-computation experts.

    python benchmarks/model_load.py [--preset lc-100m] [--runs 5] [--output FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = r"""
import re, sys, time
from pathlib import Path
import torch

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

who, what, source, target = sys.argv[1:]
if who == "longcat":
    from longcat.model.checkpoint import Conversion, load_pretrained, save_pretrained
else:
    from transformers import LongcatFlashForCausalLM
    load_pretrained = lambda folder: LongcatFlashForCausalLM.from_pretrained(folder, dtype=torch.float32)
    save_pretrained = lambda model, folder: model.save_pretrained(folder)
loaded = load_pretrained(source) if what == "save" else None
Path("/proc/self/clear_refs").write_text("5")
before, started = peak(), time.perf_counter()
if what == "load":
    loaded = load_pretrained(source)
elif what == "save":
    save_pretrained(loaded, target)
else:
    Conversion(source, layout="transformers5").write(target)
print(time.perf_counter() - started, peak() - before)
"""

CASES = (
    ("longcat", "load"),
    ("transformers", "load"),
    ("longcat", "save"),
    ("transformers", "save"),
    ("longcat", "convert"),
)


def prepare(preset: str, folder: Path) -> dict[str, Path]:
    """The same random weights in both layouts."""
    from longcat.model.checkpoint import save_pretrained
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash

    model = LongcatFlash(load_preset(preset))
    initialize(model, 0)
    folders = {"longcat": folder / "published", "transformers": folder / "transformers5"}
    save_pretrained(model, folders["longcat"])
    save_pretrained(model, folders["transformers"], layout="transformers5")
    return folders


def measure(who: str, what: str, source: Path) -> tuple[float, int]:
    with tempfile.TemporaryDirectory(dir=source.parent) as target:
        command = [sys.executable, "-c", MEASURE, who, what, str(source), str(Path(target) / "written")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    seconds, grown = ran.stdout.split()
    return float(seconds), int(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--preset", default="lc-100m")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found: dict[tuple[str, str], list[tuple[float, int]]] = {case: [] for case in CASES}
    with tempfile.TemporaryDirectory() as folder:
        sources = prepare(options.preset, Path(folder))
        # Separate sizes: the peer's model has extra rows for zero-computation experts.
        sizes = {who: (source / "model.safetensors").stat().st_size for who, source in sources.items()}
        for round_number in range(options.runs + 1):
            for who, what in CASES:
                measured = measure(who, what, sources[who])
                if round_number:  # the first round warms the file cache
                    found[who, what].append(measured)
    rows = []
    print(f"{'what':10} {'who':14} {'weights':>9} {'seconds':>8} {'peak':>9} {'x weights':>10}")
    for (who, what), runs in found.items():
        seconds = statistics.median(run[0] for run in runs)
        grown = statistics.median(run[1] for run in runs)
        ratio = grown / sizes[who]
        rows.append({"what": what, "who": who, "weights": sizes[who], "runs": runs, "peak_over_weights": ratio})
        print(f"{what:10} {who:14} {sizes[who] / 1e6:6.0f} MB {seconds:7.2f}s {grown / 1e6:6.0f} MB {ratio:9.2f}x")
    if options.output:
        options.output.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
