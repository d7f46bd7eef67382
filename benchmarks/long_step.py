"""Seconds and peak memory of a training step of `tiny-long` on 131,072 tokens, in float32 on a CPU.

The step is that of the last extension of the recipe `long`: one sequence of random tokens, without the measurements
that a run takes in its first steps. It is run by `longcat train` in a process of its own, and the figures are those
that the run reports: the mean of the steps, and the largest resident memory of the process.

    python benchmarks/long_step.py [--length 131072] [--steps 2] [--threads 2] [--attention '{kind: delta}']
        [--output FILE.json]
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

PRESET = "tiny-long"
MOST_SECONDS, MOST_BYTES = 360, 8 << 30
DOCUMENTS = 400


def command(store: Path, *words: str) -> Any:
    """Output of a command of longcat, as JSON."""
    line = [sys.executable, "-m", "longcat.cli", "--store", str(store), "--quiet", *words, "--json"]
    return json.loads(subprocess.run(line, capture_output=True, check=True, env=os.environ).stdout)


def make_tokens(store: Path, length: int) -> None:
    """Tokens `tokens` of facts, whose training documents fill several sequences."""
    facts = ("--facts", "64", "--words", "64", "--mentions", "32")
    count = str(max(DOCUMENTS, 4 * length // (64 * 32)))
    command(store, "data", "key-values", "--documents", count, *facts, "--name", "facts")
    command(store, "data", "tokenizer", "--documents", "facts", "--vocab-size", "360", "--name", "tokenizer")
    command(store, "data", "pack", "--documents", "facts", "--tokenizer", "tokenizer", "--name", "tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=131_072)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--attention", default="mla", help="`attention` of the model, in YAML")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = Path(name)
        make_tokens(store, options.length)
        settings = {
            "model.max_position_embeddings": options.length,
            "model.attention": options.attention,
            "stability.every": 0,
            "balance_loss.enabled": "false",
            "evaluation.windows": 1,
            # One sequence without bounds of documents: every position attends to all before it.
            "objective.document_mask": "false",
            "threads": options.threads,
        }
        given = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        shape = ("--preset", PRESET, "--sequence-length", str(options.length), "--batch-size", "1")
        made = command(store, "train", "--tokens", "tokens", *shape, "--steps", str(options.steps), *given)
        manifest = command(store, "artifacts", "show", made["id"])
    found = manifest["performance"]
    seconds, peak = found["step_seconds"], found["peak_memory_bytes"]
    print(f"{PRESET}, {options.length:,} tokens, {options.threads} threads")
    print(f"a step    {seconds:10.1f} s      at most {MOST_SECONDS} s at 131,072 tokens")
    print(f"peak      {peak / 2**30:10.2f} GiB    at most {MOST_BYTES / 2**30:.0f} GiB")
    if options.output:
        options.output.write_text(json.dumps({"length": options.length, **found}, indent=2))


if __name__ == "__main__":
    main()
