"""Runs the harness as a separate process, since the shim library must be loaded first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kill_points.shim import compiler

ROOT = Path(__file__).parent.parent.parent
Harness = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def harness(tmp_path: Path) -> Harness:
    """`harness("kills", "gc", "--tear")` returns the reports by name."""
    if compiler() is None:
        pytest.skip("needs Linux and a C compiler named cc")

    def run(what: str, *arguments: str) -> dict[str, dict[str, Any]]:
        paths = [str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "kill_points", what, "--folder", str(tmp_path / "harness"), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return {report["scenario"]: report for report in map(json.loads, done.stdout.splitlines())}

    return run
