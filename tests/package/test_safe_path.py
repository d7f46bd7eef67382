"""No module in the user's working folder is ever executed by the command or its child processes, whatever its name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package.conftest import clean_environment
from tests.poison import PoisonedFolder

Run = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> PoisonedFolder:
    """Working folder of a user with some documents."""
    here = PoisonedFolder(tmp_path_factory.mktemp("user") / "here", "longcat")
    text = "The river rises in the hills to the north of the town and runs for thirty miles to the sea. "
    for number in range(3):
        page = f"<html><body><main><p>{text * 9} {number}</p></main></body></html>"
        (here.path / f"{number}.html").write_text(page)
        documents = [{"id": f"{number}-{row}", "text": f"{number} {row} {text * 4}"} for row in range(40)]
        (here.path / f"{number}.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
    return here


@pytest.fixture(scope="module")
def run(installed: Path, folder: PoisonedFolder) -> Run:
    """Run the installed command in this folder; return its output."""

    def call(*arguments: str, program: tuple[str, ...] = (str(installed.with_name("longcat")),)) -> str:
        command = [*program, *arguments]
        done = subprocess.run(
            command, cwd=folder.path, env=clean_environment(), capture_output=True, text=True, timeout=200, check=False
        )
        assert folder.executed() == []
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


@pytest.fixture(scope="module")
def tokens(run: Run) -> str:
    """Name of a tokens artifact, made by pool workers and by page parsing processes."""
    inputs = [part for number in range(3) for part in ("--input", f"{number}.jsonl", "--input", f"{number}.html")]
    run("--workers", "2", "data", "extract", *inputs, "--name", "extracted")
    run("data", "tokenizer", "--documents", "extracted", "--vocab-size", "300", "--name", "tokenizer")
    run("data", "pack", "--documents", "extracted", "--tokenizer", "tokenizer", "--name", "tokens")
    return "tokens"


@pytest.fixture(scope="module")
def checkpoint(run: Run, tokens: str) -> str:
    """Name of a checkpoint, made by torchrun with two ranks."""
    sizes = ["--preset", "smoke", "--steps", "2", "--set", "sequence_length=32", "--set", "batch_size=2"]
    run("train", "--tokens", tokens, *sizes, "--nproc-per-node", "2", "--name", "base")
    return "base"


def test_the_command(run: Run) -> None:
    assert run("--version").startswith("longcat ")
    run("doctor")
    run("recipes", "list")


def test_the_module_of_the_command(installed: Path, run: Run, folder: PoisonedFolder) -> None:
    (folder.path / "longcat.py").rename(folder.path / "aside")  # the module of `-m` is looked up before any of our code
    try:
        assert run("--version", program=(str(installed), "-m", "longcat.cli")).startswith("longcat ")
    finally:
        (folder.path / "aside").rename(folder.path / "longcat.py")


def test_pool_workers_and_the_children_that_parse_pages(run: Run, tokens: str) -> None:
    assert json.loads(run("artifacts", "show", "extracted", "--json"))["counts"]["documents_out"] == 123
    assert json.loads(run("artifacts", "show", tokens, "--json"))["kind"] == "tokens"


def test_the_children_that_render_modules(run: Run) -> None:
    options = ["--limit", "4", "--kinds", "stdlib", "--kinds", "package"]
    run("--workers", "2", "data", "collect", "local", *options, "--name", "crawl")


def test_torchrun_and_its_ranks(run: Run, checkpoint: str) -> None:
    assert "2" in run("artifacts", "show", checkpoint)


def test_commands_that_read_a_checkpoint(run: Run, checkpoint: str) -> None:
    run("generate", "--checkpoint", checkpoint, "--prompt", "The river", "--max-tokens", "4")
    run("report", checkpoint, "-o", "report.html")


def test_the_server(installed: Path, folder: PoisonedFolder, checkpoint: str) -> None:
    command = [str(installed.with_name("longcat")), "serve", "--checkpoint", checkpoint, "--port", "0"]
    environment = clean_environment(PYTHONUNBUFFERED="1")
    process = subprocess.Popen(command, cwd=folder.path, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = next(word for line in process.stderr for word in line.split() if word.startswith("http://127"))
    with urllib.request.urlopen(address.rstrip("/,") + "/models", timeout=60) as answer:  # noqa: S310
        assert json.load(answer)["data"]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert folder.executed() == []


def test_the_poisoned_modules_are_executed_without_protection(installed: Path, tmp_path: Path) -> None:
    here = PoisonedFolder(tmp_path / "here")
    environment = clean_environment(PYTHONPATH=os.fspath(here.path))
    done = subprocess.run([str(installed), "-c", "import typing"], env=environment, capture_output=True, check=False)
    assert done.returncode != 0
    assert here.executed()
