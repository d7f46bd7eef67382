"""Processes that run overlapping recipes while another one repeats garbage collection: nothing may be lost.

    python tests/stress/gc_beside_runs.py --rounds 100

In every round five processes run recipes with common steps on one store, and a sixth repeats `artifacts gc --yes`,
every second time with `--now --unfinished`. After a round all processes have succeeded, every name resolves, `verify`
finds no damage, and every artifact has the same bytes as in a store without collection. With TMPDIR in memory a round
takes seconds, since no disk has to be flushed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from longcat.pipeline.processes import safe_environment, safe_python
from longcat.pipeline.store import Store

PROCESSES = 5
COLLECTOR = """
import sys
from longcat.cli.app import run
store, count = sys.argv[1], 0
while True:
    extra = ["--now", "--unfinished"] if count % 2 else []
    code = run(["--store", store, "-q", "artifacts", "gc", "--yes", *extra])
    count += 1
    print(count, code, flush=True)
"""


def write_inputs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(3):
        lines = (json.dumps({"text": f"River {number} {line} runs slowly past the mill. " * 4}) for line in range(20))
        (folder / f"{number}.jsonl").write_text("\n".join(lines))


def recipe(folder: Path, place: int, turn: int) -> Path:
    """The first step is common to all processes, the second to some, the third to none."""
    path = folder / f"recipe-{place}.yaml"
    path.write_text(
        f"""
name: stress
prefix: p{place}-
steps:
  docs:
    stage: data.extract
    config: {{input: ['{folder / "in"}'], shard_bytes: {1000 + turn}}}
  unique:
    stage: data.dedup
    inputs: {{documents: docs}}
    config: {{seed: {place % 2 + 1}}}
  again:
    stage: data.dedup
    inputs: {{documents: unique}}
    config: {{seed: {place + 10}}}
"""
    )
    return path


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*safe_python(), "-m", "longcat.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=safe_environment() | {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )


def play(store: Path, folder: Path, turn: int, *, calm: bool) -> list[str]:
    """Run one round; return its problems."""
    common = ["--store", str(store), "-q", "--workers", "1"]
    running = []
    for place in range(PROCESSES):
        process = start([*common, "run", str(recipe(folder, place, turn))])
        if calm:
            process.wait()
        running.append(process)
    problems = []
    for place, process in enumerate(running):
        _, err = process.communicate(timeout=300)
        if process.returncode:
            problems.append(f"round {turn}, process {place}: exit {process.returncode}: {err.strip()}")
    return problems


def contents(store: Path) -> dict[str, str]:
    """Artifact of the newest version of every name, with the digests of its files."""
    found = Store(store)
    artifacts = {name: found.resolve(name) for name in found.refs.names()}
    return {
        name: f"{artifact.id} {[(entry.path, entry.sha256) for entry in artifact.manifest.files]}"
        for name, artifact in artifacts.items()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder, store, calm = Path(name), Path(name) / "store", Path(name) / "calm"
        write_inputs(folder / "in")
        problems += play(store, folder, 0, calm=True)
        collector = subprocess.Popen(
            [*safe_python(), "-c", COLLECTOR, str(store)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=safe_environment() | {"PATH": "/usr/bin:/bin"},
        )
        started = time.monotonic()
        for turn in range(1, rounds + 1):
            problems += play(store, folder, turn, calm=False)
            if turn % 10 == 0 or turn == rounds:
                verified = start(["--store", str(store), "-q", "artifacts", "verify"])
                _, err = verified.communicate()
                problems += [f"round {turn}, verify: {err.strip()}"] if verified.returncode else []
                play(calm, folder, turn, calm=True)
                if contents(store) != contents(calm):
                    problems.append(f"round {turn}: different bytes than without a collector")
        alive = collector.poll() is None
        collector.kill()
        out, err = collector.communicate()
        lines = [line for line in out.splitlines() if len(line.split()) == 2]
        bad = [line for line in lines if line.split()[1] != "0"]
        problems += [] if alive else [f"the collector exited: {err.strip()[-500:]}"]
        problems += [f"gc exited with {line.split()[1]}: {err.strip()[-500:]}" for line in bad[:3]]
        seconds = time.monotonic() - started
    print("\n".join(problems))
    print(f"{rounds} rounds of {PROCESSES} processes, {len(lines)} collections, {seconds:.0f} s")
    print(f"{len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
