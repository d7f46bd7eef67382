"""The benchmarks of serving run in their smallest form and write what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.processes import safe_environment

FOLDER = Path(__file__).parents[2] / "benchmarks"
SMALLEST = {
    "serve_engine.py": ("--rows", "1", "2", "--prompt", "8", "--tokens", "4", "--rounds", "1"),
    "serve_clients.py": (
        "--peer-python",
        "none",
        "--clients",
        "1",
        "2",
        "--prompt",
        "8",
        "--tokens",
        "4",
        "--rounds",
        "1",
    ),
    "serve_latency.py": ("--short", "2", "--long", "100", "--chat", "60", "--rounds", "1"),
    "serve_drafts.py": ("--sequences", "2", "--accept", "1", "--prompt", "8", "--tokens", "12", "--rounds", "1"),
    "serve_deterministic.py": ("--runs", "1", "--prompts", "6"),
    "serve_soak.py": ("--clients", "4", "--seconds", "5"),
}


def measured(script: str, output: Path, *options: str) -> dict[str, Any]:
    fixed = ["--preset", "smoke", "--threads", "1", "--output", str(output)]
    command = [sys.executable, str(FOLDER / script), *fixed, *options]
    environment = {**os.environ, **safe_environment()}
    environment.pop("PYTHONSAFEPATH")  # the scripts import one another
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    result: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return result


@pytest.mark.parametrize("script", SMALLEST)
def test_a_benchmark_of_serving_runs(script: str, tmp_path: Path) -> None:
    content = measured(script, tmp_path / "out.json", *SMALLEST[script])
    assert content["processor"]["model"]
    assert content["threads"] == 1
    assert content["rows"]
    if script == "serve_soak.py":
        assert all(row["met"] for row in content["rows"][:2]), content["rows"]
    if script == "serve_drafts.py":
        assert content["rows"][0]["a"] > 0.5, content["rows"]
    if script == "serve_deterministic.py":
        assert {line["equal_bits"] for line in content["check"] if line["deterministic"]} == {6}
    if script == "serve_engine.py":
        assert all(profile["model"] > 0 and profile["events"] > 0 for profile in content["microseconds"])
