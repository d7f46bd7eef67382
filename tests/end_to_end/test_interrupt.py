"""Ctrl-C and SIGTERM: exit code 130, one line, and the next run goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_130(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    arguments = ["--store", str(store), "data", "collect", "local", "--limit", "400", "--name", "crawl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "longcat.cli", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(store.glob(".staging/*/output")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "interrupted (run the same command again to go on from here)" in err
    assert "Traceback" not in err
    assert not (store / "crawl").exists()
