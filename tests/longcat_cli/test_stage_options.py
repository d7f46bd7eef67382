"""Options made from the configuration of a stage: choices, defaults, positional inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest

from longcat.cli.app import run
from longcat.cli.choices import choices
from longcat.cli.stage_options import option_type

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Page {number}. " + "The river runs past the old stone mill. " * 20)
    return folder


def help_of(capfd: Capture, monkeypatch: pytest.MonkeyPatch, command: str) -> dict[str, str]:
    """Help text of each option, on one line."""
    monkeypatch.setenv("COLUMNS", "400")
    assert run([*command.split(), "-h"]) == 0
    lines = (line.strip("│ ") for line in capfd.readouterr().out.splitlines())
    return {line.split()[0]: " ".join(line.split()) for line in lines if line.startswith("--")}


@pytest.mark.parametrize(
    ("command", "flag", "shown"),
    [
        ("train", "--dtype", "<auto|float32|bfloat16>"),
        ("train", "--device", "<auto|cpu|cuda>"),
        ("train", "--activation-checkpointing", "<none|selective|block>"),
        ("train", "--activation-checkpointing", "(default: none)"),
        ("train", "--threads", "(default: null)"),
        ("train", "--micro-batch-size", "(default: null)"),
        ("train", "--keep-own", "(default: empty)"),
        ("train", "--compile", "(default: no)"),
        ("grow", "--moments", "<copy|rescale|zero>"),
        ("data extract", "--format", "<auto|warc|html|jsonl|parquet|text|"),
        ("data extract", "--extractor", "<longcat|resiliparse|trafilatura>"),
        ("data extract", "--formats", "warc|html|jsonl"),
        ("generate", "--dtype", "<auto|float32|bfloat16>"),
        ("serve", "--device", "<auto|cpu|cuda>"),
        ("export", "--layout", "<published|transformers5>"),
    ],
)
def test_choices_and_defaults_are_shown(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, command: str, flag: str, shown: str
) -> None:
    assert shown in help_of(capfd, monkeypatch, command)[flag]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("data extract . --format htm", 2, "'htm' is not one of"),
        ("data extract . --formats htm", 2, "'htm' is not one of"),
        ("data extract . --set format=htm", 3, "'format'"),
        ("train --tokens t --preset tiny --steps 1 --dtype float3", 2, "'float3' is not one of"),
        ("generate --checkpoint base --device gpu", 2, "'gpu' is not one of"),
    ],
)
def test_a_wrong_choice_is_refused(capfd: Capture, tmp_path: Path, arguments: str, code: int, message: str) -> None:
    assert run(["--store", str(tmp_path / "store"), *arguments.split()]) == code
    assert message in " ".join(capfd.readouterr().err.replace("│", " ").split())


def test_inputs_are_accepted_with_or_without_their_flag(capfd: Capture, tmp_path: Path, site: Path) -> None:
    store = ["--store", str(tmp_path / "store"), "--json", "--quiet"]
    first, rest = str(site / "0.txt"), [str(site / "1.txt"), str(site / "2.txt")]
    calls = (
        [first, *rest],
        ["--input", first, "--input", rest[0], "--input", rest[1]],
        [first, rest[0], "--input", rest[1]],
    )
    ids = []
    for given in calls:
        assert run([*store, "data", "extract", *given]) == 0
        found = json.loads(capfd.readouterr().out)
        assert found["counts"]["documents_out"] == 3
        ids.append(found["id"])
    assert len(set(ids)) == 1


def test_lists_of_choices_reach_the_configuration(capfd: Capture, tmp_path: Path, site: Path) -> None:
    arguments = ["data", "extract", str(site), "--formats", "text", "--formats", "html", "--dry-run", "--json"]
    assert run(["--store", str(tmp_path / "store"), *arguments]) == 0
    (step,) = json.loads(capfd.readouterr().out)["steps"]
    assert step["config"]["formats"] == ["text", "html"]
    assert step["config"]["format"] == "auto"


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (Literal["a", "b"], ("a", "b")),
        (Literal["a"] | Literal["b", "c"], ("a", "b", "c")),
        (Literal["a"] | None, ("a",)),
        (Annotated[Literal["a"], "noted"], ("a",)),
        (Literal[1, 2], None),
        (float | Literal["auto"], None),
        (str, None),
    ],
)
def test_what_counts_as_a_choice(annotation: object, words: tuple[str, ...] | None) -> None:
    assert choices(annotation) == words


def test_a_number_or_a_word_is_taken_as_text() -> None:
    assert option_type(float | Literal["auto"]) is str
    assert option_type(dict[str, int]) is None
