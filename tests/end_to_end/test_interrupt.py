"""Ctrl-C and SIGTERM: exit code 130, one line, and the next run resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
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
    assert "interrupted (run the same command again to resume from here)" in err
    assert "Traceback" not in err
    assert not (store / "crawl").exists()


def handles(pid: int) -> bool:
    """Whether a process has installed a handler of SIGTERM; before that the default action applies."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        pytest.skip("no /proc on this system")
    caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) & 1 << (signal.SIGTERM - 1))


def interrupted_at_start(folder: Path, delay: float, number: signal.Signals, *, whole_group: bool) -> tuple[int, str]:
    """Exit code and stderr of a run with two workers that gets a signal `delay` seconds after installing handlers."""
    arguments = ["--store", str(folder / "store"), "--workers", "2", "data", "collect", "local", "--limit", "400"]
    process = subprocess.Popen(
        [sys.executable, "-m", "longcat.cli", *arguments],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    while not handles(process.pid):
        time.sleep(0.001)
    time.sleep(delay)
    if whole_group:  # like a terminal
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    return process.wait(timeout=60), process.communicate()[1]


def check(folder: Path, delays: Iterable[float], number: signal.Signals, *, whole_group: bool) -> None:
    for delay in delays:
        code, err = interrupted_at_start(folder, delay, number, whole_group=whole_group)
        assert code == 130, f"{delay:.3f} s: {err}"
        assert err.startswith("longcat: interrupted"), f"{delay:.3f} s: {err}"
        assert err.count("\n") == 1, f"{delay:.3f} s: {err}"


HOW = [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)]


@pytest.mark.parametrize(("number", "whole_group"), HOW)
def test_a_signal_while_workers_start_is_one_line(tmp_path: Path, number: signal.Signals, whole_group: bool) -> None:
    check(tmp_path, (0.0, 0.3, 0.6, 0.9), number, whole_group=whole_group)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("number", "whole_group"), HOW)
def test_a_signal_at_any_moment_of_the_start_is_one_line(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    check(tmp_path, (moment / 20 for moment in range(31)), number, whole_group=whole_group)
