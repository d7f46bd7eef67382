"""The memory that a run foretells, and the peak of its process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.pipeline.artifact import Artifact


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "micro"), [("tiny", 8), ("demo", 8), ("demo", 2)])
def test_the_estimate_is_near_the_peak(preset: str, micro: int, tokens: Artifact, tmp_path: Path) -> None:
    """In a process of its own: this one has the memory of other tests."""
    size = ("--batch-size", "8", "--micro-batch-size", str(micro), "--sequence-length", "256", "--steps", "8")
    call = [sys.executable, "-m", "longcat.cli", "--store", str(tmp_path), "train", "--tokens", str(tokens.path)]
    options = ("--preset", preset, *size, "--threads", "1", "--device", "cpu", "--json")
    done = subprocess.run([*call, *options], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["performance"]
    assert found["peak_memory_bytes"] == pytest.approx(found["estimated_memory_bytes"], rel=0.12)
