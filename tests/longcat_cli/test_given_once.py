"""An option that takes one value refuses a second, on every command; one that takes several keeps their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import longcat.stages  # noqa: F401  declares the stages
from longcat.cli.app import command, run
from longcat.cli.stage_command import build_command
from longcat.cli.train import TRAIN
from longcat.pipeline.errors import UsageError

Capture = pytest.CaptureFixture[str]


def every_option(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, param) for param in tree.params if param.param_type_name == "option"]
    for name, below in getattr(tree, "commands", {}).items():
        found += every_option(below, (*path, name))
    return found


ONCE = [(path, param) for path, param in every_option(command()) if not (param.multiple or param.is_eager)]
COMMANDS = sorted({path for path, _ in ONCE})


def values_of(param: Any) -> list[list[str]]:
    """The option written in two ways; values are counted before they are read."""
    if param.is_flag:
        return [[param.opts[0]], [(param.secondary_opts or param.opts)[0]]]
    return [[param.opts[0], "1"], [f"{max(param.opts, key=len)}=2"]]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_is_refused_the_second_time(capfd: Capture, path: tuple[str, ...]) -> None:
    for param in (param for of, param in ONCE if of == path):
        first, second = values_of(param)
        assert run([*path, *first, *second]) == 2
        out, err = capfd.readouterr()
        assert out == ""
        assert err.startswith(f"longcat: {max(param.opts, key=len)}"), err
        assert "is given 2 times (it can be given once)" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("data extract x --name a --name b", "--name is given 2 times"),
        ("data dedup --documents a --config b --config=b", "--config is given 2 times"),
        ("data dedup --documents a --near --no-near", "--near/--no-near is given 2 times"),
        ("data pack --documents a --tokenizer b --tokenizer c --tokenizer d", "--tokenizer is given 3 times"),
        ("train --tokens t --preset tiny --preset small", "--preset is given 2 times"),
        ("train --tokens t --set steps=1 --set steps=1", "'steps' is already given"),
        ("data filter --documents a --set c4.enabled=false --set 'c4={enabled: true}'", "'c4' is already given"),
        ("data dedup --documents a --near --set near=false", "near is given twice, as --near and as --set"),
        ("data extract x --set input=[y]", "input is given twice, as an argument and as --set"),
        ("data decontaminate --documents a --benchmark x --set benchmarks=[y]", "as --benchmark and as --set"),
        ("run demo --set base.steps=1 --set base.steps=2", "'base.steps' is already given"),
        ("data inspect f --set c4.enabled=true --set c4.enabled=false", "'c4.enabled' is already given"),
    ],
)
def test_the_message_names_the_option(capfd: Capture, tmp_path: Path, arguments: str, message: str) -> None:
    assert run(["--store", str(tmp_path), *arguments.replace("'", "").replace(": ", ":").split()]) in (2, 4)
    assert message.replace("'", "") in capfd.readouterr().err.replace("'", "")


def test_an_unfinished_line_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    built = build_command("train", TRAIN)
    with pytest.raises(UsageError):
        built.make_context("train", ["--preset", "tiny", "--preset", "small"])
    built.make_context("train", ["--preset", "tiny", "--preset", "small"], resilient_parsing=True)


def test_repeatable_options_keep_their_order(capfd: Capture, tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"Notes of {name}. " * 40)
        assert (
            run(["--store", str(tmp_path / "s"), "data", "extract", str(tmp_path / f"{name}.txt"), "--name", name]) == 0
        )
    capfd.readouterr()
    for first, second in ("ba", "ab"):
        given = ["--documents", first, "--documents", second]
        assert run(["--store", str(tmp_path / "s"), "data", "dedup", *given, "--dry-run", "--json"]) == 0
        (step,) = json.loads(capfd.readouterr().out)["steps"]
        names = {}
        for name in "ab":
            assert run(["--store", str(tmp_path / "s"), "artifacts", "show", name, "--json"]) == 0
            names[json.loads(capfd.readouterr().out)["id"]] = name
        assert [names[one] for one in step["inputs"]["documents"]] == [first, second]
