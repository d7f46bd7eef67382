"""Extraction of one large file, killed at given times, compared with an undisturbed run: work done again, and bytes.

The work done again is the CPU time of all runs of the disturbed extraction minus that of the undisturbed one. It
includes the start of the program and the digest of the input, which every run computes. All processes of a run get
SIGKILL.

    python benchmarks/data_extract_kills.py crawl.warc [--at 25 71] [--workers 2]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.5


def command(store: Path, options: argparse.Namespace) -> list[str]:
    longcat = [sys.executable, "-m", "longcat.cli", "--store", str(store)]
    return [*longcat, "data", "extract", options.file, "--workers", str(options.workers), "--json"]


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process, its children and theirs so far."""
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
        # Those that ended and were waited for.
        total += times.children_user + times.children_system
    return total


def run(call: list[str], kill_after: float | None) -> tuple[float, float, dict[str, Any] | None]:
    """CPU seconds and seconds of one run, and what it printed; None if it was killed."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(call, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
        process, cpu = psutil.Process(child.pid), 0.0
        while child.poll() is None:
            cpu = max(cpu, cpu_seconds(process))
            if kill_after is not None and time.monotonic() - began >= kill_after:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return cpu, time.monotonic() - began, None
            time.sleep(POLL_SECONDS)
        if child.returncode:
            raise SystemExit(f"the run ended with exit code {child.returncode}")
        output.seek(0)
        return cpu, time.monotonic() - began, json.load(output)


def digest(result: dict[str, Any]) -> str:
    """Digest of all files of an artifact but its manifest."""
    found = hashlib.sha256()
    for path in sorted(Path(result["path"]).iterdir()):
        if path.name != "manifest.json":
            found.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file")
    parser.add_argument(
        "--at", type=float, nargs="+", default=[25.0, 71.0], help="seconds after which each run is killed"
    )
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="longcat-kills-") as folder:
        cpu, seconds, whole = run(command(Path(folder) / "whole", options), None)
        print(f"undisturbed        {cpu:7.1f} CPU-s {seconds:7.1f} s", flush=True)
        total, result = 0.0, None
        for kill_after in [*options.at, None]:
            used, seconds, result = run(command(Path(folder) / "killed", options), kill_after)
            total += used
            what = "finished" if kill_after is None else f"killed at {kill_after:g} s"
            print(f"{what:18} {used:7.1f} CPU-s {seconds:7.1f} s", flush=True)
        assert whole is not None
        assert result is not None
        print(f"done again         {total - cpu:7.1f} CPU-s, {(total - cpu) / len(options.at):.1f} a kill")
        print(f"bytes              {'equal' if digest(whole) == digest(result) else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
