"""The common options: before, after and between commands, with equal meaning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import command, run
from longcat.cli.common_options import PANEL, leading_common_options
from longcat.cli.stage_command import build_command
from longcat.cli.train import TRAIN

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _colours_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere"


def every_command(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, tree)]
    for name, below in getattr(tree, "commands", {}).items():
        found += every_command(below, (*path, name))
    return found


COMMANDS = [path for path, below in every_command(command())]
LEAVES = [path for path, below in every_command(command()) if not getattr(below, "commands", None)]


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_printed_at_once(capfd: Capture, flag: str) -> None:
    assert run([flag]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("longcat 0.")
    assert (out.count("\n"), err) == (1, "")
    assert run([flag, "no-such-command"]) == 0


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_lists_the_common_options_once(capfd: Capture, path: tuple[str, ...]) -> None:
    assert run([*path, "-h"]) == 0
    out = capfd.readouterr().out
    assert out.count(PANEL) == 1
    panel = out.partition(f"{PANEL} ")[2].partition("╰")[0].splitlines()
    assert len(panel) <= 15
    for flag in ("--store", "--quiet", "--verbose", "--debug", "--no-color"):
        assert sum(line.startswith(f"│ {flag}") for line in panel) == 1, flag


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_has_an_example(capfd: Capture, path: tuple[str, ...]) -> None:
    assert run([*path, "-h"]) == 0
    text = " ".join(capfd.readouterr().out.partition("Usage:")[2].partition("\n")[2].split())
    assert " ".join(("longcat", *path)) in text


@pytest.mark.parametrize(
    "arguments",
    [
        "--store {0} artifacts list --json",
        "artifacts --store {0} list --json",
        "artifacts list --json --store {0}",
        "--json artifacts list --store={0}",
        "artifacts --json list --store {0}",
        "--store nowhere artifacts list --store {0} --json",
        "artifacts list --store {0} --json -q -v --debug --no-color --workers 2 --engine local",
    ],
)
def test_store_and_json_options_may_be_at_any_position(
    capfd: Capture, store: Path, tmp_path: Path, arguments: str
) -> None:
    (tmp_path / "note.txt").write_text("A note about the river. " * 20)
    assert run(["data", "extract", "--input", str(tmp_path / "note.txt"), "--store", str(store), "-q"]) == 0
    capfd.readouterr()
    assert run(arguments.format(store).split()) == 0
    (listed,) = json.loads(capfd.readouterr().out)
    assert Path(listed["path"]).is_relative_to(store)


@pytest.mark.parametrize(
    "arguments",
    [
        "--store {0} --json train sweep --tokens t --preset tiny --steps 1",
        "train --store {0} --json sweep --tokens t --preset tiny --steps 1",
        "train sweep --tokens t --preset tiny --steps 1 --store {0} --json",
        "train --tokens t --preset tiny --steps 1 --store {0} --json",
        "train --store sweep verify t --store {0}",
        "run smoke --from base --store {0}",
        "data collect --store {0} local --limit 0",
    ],
)
def test_stages_groups_and_recipes_accept_them(capfd: Capture, store: Path, arguments: str) -> None:
    code = run(arguments.format(store).split())
    err = capfd.readouterr().err
    assert code in (2, 3, 4)
    assert "No such option" not in err
    assert "unexpected extra argument" not in err
    assert "sweep" not in err or "train sweep" not in arguments


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_no_common_option_is_unknown_after_a_command(capfd: Capture, store: Path, path: tuple[str, ...]) -> None:
    """The last option does not exist and must be the only one in the error."""
    flags = ("-q", "-v", "--debug", "--no-color", "--workers", "3", "--engine", "local", "--ray-address", "auto")
    code = run([*path, "--store", str(store), *flags, "--no-such-option"])
    assert code == 2
    assert "--no-such-option" in capfd.readouterr().err.replace("\n", "")
    assert not store.exists()


def test_an_option_of_a_stage_with_the_same_name_has_priority() -> None:
    built = build_command("train", TRAIN)
    flags = [flag for param in built.params for flag in (*param.opts, *param.secondary_opts)]
    assert len(flags) == len(set(flags))


def test_json_for_a_command_without_json_is_an_error(capfd: Capture, store: Path) -> None:
    for arguments in (["--json", "serve", "--checkpoint", "x"], ["serve", "--checkpoint", "x", "--json"]):
        assert run(["--store", str(store), *arguments]) == 2
        assert "`longcat serve` does not print JSON" in capfd.readouterr().err


def test_the_last_of_quiet_and_verbose_applies(capfd: Capture, store: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("A note about the river. " * 20)
    arguments = ["data", "extract", "--input", str(tmp_path / "note.txt"), "--store", str(store)]
    assert run(["-v", *arguments, "-q"]) == 0
    assert capfd.readouterr().err == ""
    assert run(["-q", *arguments, "--set", "min_text_chars=2", "-v"]) == 0
    assert "extracting" in capfd.readouterr().err


def test_debug_after_the_command_shows_the_traceback(capfd: Capture, store: Path) -> None:
    assert run(["artifacts", "show", "nothing", "--store", str(store), "--debug"]) == 4
    assert "Traceback" in capfd.readouterr().err


def test_leading_common_options_are_counted() -> None:
    assert leading_common_options(["--store", "x", "--json", "-q", "--workers=2", "sweep", "-q"]) == 5
    assert leading_common_options(["--preset", "x"]) == 0
    assert leading_common_options(["--store"]) == 1


@pytest.mark.parametrize(("flags", "environment"), [(["--no-color"], {}), ([], {"NO_COLOR": "1"})])
@pytest.mark.parametrize("arguments", [["--help"], ["train", "-h"]])
def test_no_colours_if_disabled(arguments: list[str], flags: list[str], environment: dict[str, str]) -> None:
    code = "import sys\nfrom longcat.cli.app import run\nrun(sys.argv[1:])"
    forced = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "200"}
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments, *flags],
        env={**os.environ, **forced, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert found
    assert "\x1b[3" not in found, "a foreground colour"
