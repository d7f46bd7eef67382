"""`kill -9` at random times during a whole chain: the final bytes are those of an undisturbed run."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# The smoke recipe with smaller sizes, fast enough for the default tests.
SMALL = ("crawl.limit=40", "tokenizer.vocab_size=600", "base.steps=6", "grown-on.steps=4")
CLOCK = ("started", "duration_seconds", "performance")


def command(store: Path, settings: tuple[str, ...]) -> list[str]:
    options = [text for setting in settings for text in ("--set", setting)]
    return [sys.executable, "-m", "longcat.cli", "--store", str(store), "--quiet", "run", "smoke", *options]


def contents(store: Path) -> dict[str, Any]:
    """Files of every artifact by path, and its manifest without timestamps."""
    found: dict[str, Any] = {}
    for path in sorted(store.glob("*/*/**/*")):
        if ".staging" in path.parts or "logs" in path.parts or "refs" in path.parts or not path.is_file():
            continue
        name = path.relative_to(store).as_posix()
        data: Any = path.read_bytes()
        if path.name == "manifest.json":
            data = {key: value for key, value in json.loads(data).items() if key not in CLOCK}
        found[name] = data
    return found


def run_with_kills(store: Path, settings: tuple[str, ...], kills: int, seconds: float, seed: int) -> int:
    """Run until the command finishes, with `kills` kills; return how many of them hit a live run."""
    moments = random.Random(seed)
    hit = 0
    for _ in range(kills):
        process = subprocess.Popen(command(store, settings), stderr=subprocess.PIPE)
        time.sleep(moments.uniform(0.3, 1.0 + 2.0 * seconds / kills))
        hit += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    return hit


def check(tmp_path: Path, settings: tuple[str, ...], kills: int) -> None:
    started = time.monotonic()
    subprocess.run(command(tmp_path / "calm", settings), check=True, capture_output=True, timeout=1800)
    seconds = time.monotonic() - started
    hit = run_with_kills(tmp_path / "killed", settings, kills, seconds, seed=kills)
    subprocess.run(command(tmp_path / "killed", settings), check=True, capture_output=True, timeout=1800)
    calm, killed = contents(tmp_path / "calm"), contents(tmp_path / "killed")
    assert hit >= kills // 2
    assert calm.keys() == killed.keys()
    assert [name for name in calm if calm[name] != killed[name]] == []
    assert not list((tmp_path / "killed" / ".staging").glob("*/output"))


def test_a_few_kills(tmp_path: Path) -> None:
    check(tmp_path, SMALL, kills=4)


@pytest.mark.slow
def test_twenty_kills_of_the_smoke_recipe(tmp_path: Path) -> None:
    check(tmp_path, (), kills=20)
