"""The script of the first GPU run: a dry run on a CPU, and the error without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_first_run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "LONGCAT_KERNELS"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_a_dry_run_writes_the_report(tmp_path: Path) -> None:
    finished = run("--dry-run", "--output", str(tmp_path))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    report = json.loads((tmp_path / "gpu_first_run.json").read_text(encoding="utf-8"))
    assert report["dry_run"]
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["cpu"]
    assert len(report["sections"]) == 10
    for name, rows in report["sections"].items():
        assert isinstance(rows, list), (name, rows)
        assert rows
        assert not any("error" in row for row in rows), rows
    losses = [row["first_loss"] for row in report["sections"]["training step"]]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    page = (tmp_path / "gpu_first_run.md").read_text(encoding="utf-8")
    assert page.startswith("# First run on a GPU")
    assert "not meaningful" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_script_exits_with_an_error(tmp_path: Path) -> None:
    finished = run("--output", str(tmp_path))
    assert finished.returncode == 2
    assert "no GPU found" in finished.stderr
    assert not list(tmp_path.iterdir())
