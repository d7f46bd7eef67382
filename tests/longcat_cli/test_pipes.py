"""A closed reader of stdout ends the command quietly; any other broken pipe is an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.cli import app, recipes


def closed_at_once(arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and stderr of a command whose stdout is closed."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "longcat.cli", *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr


@pytest.mark.parametrize("environment", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["recipes", "show", "demo"],
        ["recipes", "list"],
        ["recipes", "list", "--json"],
        ["data", "pack", "--show-config"],
        ["data", "pack", "--show-config", "--json"],
        ["artifacts", "list"],
        ["artifacts", "list", "--json"],
    ],
    ids=" ".join,
)
def test_a_closed_reader_is_not_an_error(tmp_path: Path, arguments: list[str], environment: dict[str, str]) -> None:
    assert closed_at_once(
        [*arguments, "--store", str(tmp_path)] if arguments[0][0] != "-" else arguments, environment
    ) == (
        141,
        "",
    )


def test_a_reader_of_one_line_gets_it(tmp_path: Path) -> None:
    line = f"{sys.executable} -m longcat.cli recipes show demo | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[0] == "name: demo"
    assert done.stdout.splitlines()[1] in ("0", "141")  # 0 if all output was in the pipe before the reader exited
    assert done.stderr == ""


def test_another_broken_pipe_is_an_error(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Path:
        raise BrokenPipeError(32, "Broken pipe", "worker 3")

    monkeypatch.setattr(recipes, "find_recipe", broken)
    assert app.run(["recipes", "show", "demo"]) == 1
    assert capfd.readouterr().err == "longcat: worker 3: Broken pipe\n"
