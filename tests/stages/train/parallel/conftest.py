"""Runs worker.py, which compares parallel processes with one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[3]

Results = dict[str, dict[str, Any]]
RunCases = Callable[[str, float], Results]


@pytest.fixture(scope="session")
def run_cases(tmp_path_factory: pytest.TempPathFactory) -> RunCases:
    """Results by name of all cases of a file; the processes are killed after a number of seconds."""

    def run(cases: str, seconds: float) -> Results:
        folder = tmp_path_factory.mktemp("parallel")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with (folder / "log").open("w") as log:
            worker = subprocess.Popen(
                [sys.executable, str(HERE / "worker.py"), str(folder), cases],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = worker.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if worker.poll() is None:
                    os.killpg(worker.pid, signal.SIGKILL)
                    worker.wait()
        assert code == 0, (folder / "log").read_text()[-4000:]
        lines = (folder / "results.jsonl").read_text().splitlines()
        return {result.pop("name"): result for result in map(json.loads, lines)}

    return run
