"""Speed of a training step and of decoding compared with another commit: `... --against COMMIT --rounds 9`.

Each tree runs in a process of its own that stays alive; the two alternate, one measurement each, so that other load of
the machine affects both. A ratio above 1 means that this tree is faster. The ratio is that of the medians of the
rounds, followed by the quartiles of the ratios per round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORKS = {"train demo": ("demo", 4, 256), "train lc-100m": ("lc-100m", 1, 256)} | {
    f"decode {preset}": (preset, 1, 256) for preset in ("tiny", "demo", "lc-100m")
}
DECODE_STEPS = 48


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="HEAD~1")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.child:
        return child()
    with tempfile.TemporaryDirectory(prefix="longcat-speed-") as name:
        other = Path(name) / "other"
        git("worktree", "add", "--detach", str(other), options.against)
        try:
            found = measure({"before": other, "now": ROOT}, options.rounds)
        finally:
            git("worktree", "remove", "--force", str(other))
    print(processor())
    for work, times in found.items():
        ratios = sorted(before / now for before, now in zip(times["before"], times["now"], strict=True))
        ratio = statistics.median(times["before"]) / statistics.median(times["now"])
        low, _, high = statistics.quantiles(ratios, n=4)
        print(f"{work:16} {statistics.median(times['now']) * 1e3:9.2f} ms  {ratio:6.3f} x  ({low:.3f} to {high:.3f})")
    if options.json:
        options.json.write_text(json.dumps({"processor": processor(), "seconds": found}, indent=1) + "\n")
    return 0


def measure(trees: dict[str, Path], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by work and tree, one entry per round; the first round is a warm-up and is dropped."""
    children = {name: start(tree) for name, tree in trees.items()}
    found: dict[str, dict[str, list[float]]] = {work: {name: [] for name in trees} for work in WORKS}
    for number in range(rounds + 1):
        for work in WORKS:
            for name in sorted(trees, reverse=bool(number % 2)):
                seconds = ask(children[name], work)
                if number:
                    found[work][name].append(seconds)
        print(f"round {number} of {rounds}", file=sys.stderr)
    for running in children.values():
        running.terminate()
    return found


def start(tree: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", str(Path(__file__).resolve()), "--child"]
    environment = os.environ | {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(running: subprocess.Popen[str], work: str) -> float:
    assert running.stdin is not None
    assert running.stdout is not None
    running.stdin.write(work + "\n")
    running.stdin.flush()
    return float(running.stdout.readline())


def child() -> int:
    """For each line, run the named work and answer with its CPU time in seconds."""
    import torch

    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    for line in sys.stdin:
        work = line.strip()
        preset, batch, length = WORKS[work]
        if preset not in models:
            models[preset] = build(preset)
        model = models[preset]
        ids = torch.randint(4, model.config.vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))
        print((train if work.startswith("train") else decode)(model, ids), flush=True)
    return 0


def build(preset: str) -> Any:
    from longcat.model.init import initialize
    from longcat.model.presets import load_preset
    from longcat.model.transformer import LongcatFlash

    model = LongcatFlash(load_preset(preset))
    initialize(model, 0)
    return model


def train(model: Any, ids: Any) -> float:
    began = time.process_time()
    loss, counted, _ = model.loss(ids, ids.roll(-1, 1))
    (loss / counted).backward()
    seconds = time.process_time() - began
    model.zero_grad(set_to_none=True)
    return seconds


def decode(model: Any, ids: Any) -> float:
    import torch

    with torch.no_grad():
        append = appender(model, ids.shape[1] + DECODE_STEPS)
        following = append(ids).logits.argmax(-1)
        began = time.process_time()
        for _ in range(DECODE_STEPS):
            following = append(following).logits.argmax(-1)
        return time.process_time() - began


def appender(model: Any, length: int) -> Callable[[Any], Any]:
    """Takes the next tokens of one text: in pages, or in the cache that earlier commits have."""
    if hasattr(model, "new_pages"):
        from longcat.model.rows import Rows

        return partial(Rows(model, 1, length).append, logits_to_keep=1)
    return partial(model, cache=model.new_cache(1, length), logits_to_keep=1)


def processor() -> str:
    """Model and vector instructions of the CPU."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {key.strip(): value.strip() for key, value in named.items()}
    wide = [flag for flag in values.get("flags", "").split() if flag.startswith(("avx", "amx"))]
    return f"{values.get('model name', 'unknown CPU')} ({' '.join(wide)}); one thread, CPU time"


def git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
