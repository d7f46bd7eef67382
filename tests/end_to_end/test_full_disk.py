"""A disk that is really full: one line, nothing half-written, and the same command succeeds once there is room."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(*arguments: str) -> None:
    try:
        subprocess.run(["mount", "-t", "tmpfs", *arguments], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-o", "size=512k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


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
    mount("-o", "remount,size=64m", "tmpfs", str(small_disk))
    again = subprocess.run([*command, "--json"], check=False, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["counts"]["documents_out"] == 36_000
