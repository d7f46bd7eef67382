"""A full disk: one line of error, no partial output, and the same command succeeds after space is freed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_full_disk(small_disk: Path, tmp_path: Path, workers: str) -> None:
    inputs = []
    for number in range(4):
        path = tmp_path / f"{number}.jsonl"
        # Hexadecimal digits of a hash do not compress below half their size.
        texts = (hashlib.sha256(f"{number} {i}".encode()).hexdigest() for i in range(9000))
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        inputs += ["--input", str(path)]
    command = [
        sys.executable,
        "-m",
        "longcat.cli",
        "--store",
        str(small_disk / "store"),
        "--workers",
        workers,
        "--quiet",
    ]
    command += ["data", "extract", *inputs, "--name", "texts"]
    full = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert full.returncode == 1
    assert "the disk is full (free some space and run again" in full.stderr
    assert full.stderr.count("\n") == 1
    assert not list(small_disk.glob("store/documents/*"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    again = subprocess.run([*command, "--json"], check=False, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["counts"]["documents_out"] == 36_000
