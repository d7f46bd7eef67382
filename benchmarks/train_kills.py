"""A training run killed at random times compared with an undisturbed run: all losses and bytes must be equal.

Both use the command line, each with its own store into which the tokens are copied, at the same time and with one
thread each. The disturbed run gets SIGKILL after random waits and is restarted with the same command. Its metrics.jsonl
and all files of its checkpoint are compared with those of the other. `--minutes` sets the length, by a short trial run
that measures the speed.

    python benchmarks/train_kills.py --store longcat-store [--tokens tokens] [--preset demo] [--minutes 30] [--kills 5]
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

TRIAL_STEPS = 20


def command(store: Path, options: argparse.Namespace, steps: int, name: str) -> list[str]:
    return [
        *(sys.executable, "-m", "longcat.cli", "--store", str(store), "train", "--tokens", options.tokens),
        *("--preset", options.preset, "--steps", str(steps), "--threads", "1", "--batch-size", "8"),
        *("--checkpoint-every", str(max(10, steps // 60)), "--name", name, "--json"),
    ]


def copy_tokens(source: Path, target: Path, reference: str) -> None:
    """A store with only the tokens, under the same name."""
    shown = [sys.executable, "-m", "longcat.cli", "--store", str(source), "artifacts", "show", reference, "--json"]
    path = Path(json.loads(subprocess.run(shown, check=True, capture_output=True, text=True).stdout)["path"])
    shutil.copytree(path, target / path.parent.name / path.name)
    (target / "refs").mkdir(parents=True, exist_ok=True)
    for entry in (source / "refs").glob(f"{reference}.json"):
        shutil.copy(entry, target / "refs" / entry.name)


def measured_step(store: Path, options: argparse.Namespace) -> float:
    """Seconds per step of two concurrent trial runs."""
    runs = [
        subprocess.Popen(command(store, options, TRIAL_STEPS + extra, f"trial-{extra}"), stdout=subprocess.PIPE)
        for extra in (0, 1)
    ]
    results = [json.loads(run.communicate()[0]) for run in runs]
    return float(max(result["performance"]["step_seconds"] for result in results))


def disturbed(call: list[str], pauses: list[float], log: list[str]) -> dict[str, Any]:
    """Run `call` until it finishes, with a SIGKILL after every pause."""
    began = time.monotonic()
    for number, pause in enumerate(pauses, start=1):
        child = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            child.wait(timeout=pause)
            log.append(f"kill {number}: the run had already finished")
            break
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGKILL)
            child.wait()
            log.append(f"kill {number}: after {time.monotonic() - began:.0f} s")
    return dict(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))


def contents(result: dict[str, Any]) -> dict[str, str]:
    manifest = json.loads((Path(result["path"]) / "manifest.json").read_text())
    return {entry["path"]: entry["sha256"] for entry in manifest["files"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--tokens", default="tokens")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="folder of both stores")
    options = parser.parse_args()
    folder = options.output or Path(tempfile.mkdtemp(prefix="longcat-kills-"))
    calm, rough = folder / "undisturbed", folder / "killed"
    for store in (calm, rough):
        copy_tokens(options.store, store, options.tokens)
    steps = max(options.kills * 12, int(options.minutes * 60 / measured_step(calm, options)))
    print(f"{steps} steps, about {options.minutes:g} minutes; stores in {folder}", flush=True)

    draw, log = random.Random(options.seed), []
    span = options.minutes * 60 / (options.kills + 1)
    pauses = [span * draw.uniform(0.5, 1.2) for _ in range(options.kills)]
    results: dict[str, dict[str, Any]] = {}
    thread = threading.Thread(
        target=lambda: results.update(killed=disturbed(command(rough, options, steps, "run"), pauses, log))
    )
    began = time.monotonic()
    thread.start()
    call = command(calm, options, steps, "run")
    results["undisturbed"] = dict(json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout))
    print(f"undisturbed: {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    thread.join()
    print(f"killed:      {(time.monotonic() - began) / 60:.1f} minutes; {'; '.join(log)}")

    ours, theirs = contents(results["undisturbed"]), contents(results["killed"])
    different = sorted(path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path))
    lines = sum(1 for _ in (Path(results["killed"]["path"]) / "metrics.jsonl").open())
    print(f"metrics.jsonl: {lines} lines, {'different' if 'metrics.jsonl' in different else 'equal to the byte'}")
    print(f"{len(ours)} files compared, different: {', '.join(different) or 'none'}")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
