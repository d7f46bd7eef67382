"""A stage that drops all documents prints one line and exits with code 3; a chain stops there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from longcat.cli.app import run

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(f"Note {number}. " + "The river runs slowly past the old mill. " * 20)
    return folder


def longcat(capfd: Capture, tmp_path: Path, *arguments: str) -> tuple[int, str, str]:
    code = run(["--store", str(tmp_path / "store"), "--quiet", *arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("again", [False, True], ids=["made", "reused"])
def test_a_stage_that_drops_everything(capfd: Capture, tmp_path: Path, notes: Path, again: bool) -> None:
    assert longcat(capfd, tmp_path, "data", "extract", str(notes), "--name", "notes")[0] == 0
    strict = ("data", "filter", "--documents", "notes", "--set", "gopher_quality.min_words=9999", "--name", "strict")
    if again:
        longcat(capfd, tmp_path, *strict)
    code, out, err = longcat(capfd, tmp_path, *strict, "--json")
    found = json.loads(out)
    assert code == 3
    assert (found["reused"], found["counts"]["documents_out"], found["name"]) == (again, 0, "strict")
    assert err.startswith("longcat: strict@1: none of 3 documents is left: gopher_quality.")
    assert "`longcat data inspect strict@1`" in err
    assert err.count("\n") == 1
    assert longcat(capfd, tmp_path, "artifacts", "show", "strict")[0] == 0


def test_no_record_gives_a_document(capfd: Capture, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    code, _, err = longcat(capfd, tmp_path, "data", "extract", str(tmp_path / "empty.txt"))
    assert code == 3
    assert "none of 1 documents is left: no_text 1" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("runs", [1, 2])
def test_a_chain_stops_when_nothing_is_left(capfd: Capture, tmp_path: Path, notes: Path, runs: int) -> None:
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(
        "name: chain\nsteps:\n"
        f"  extracted: {{stage: data.extract, config: {{input: [{notes}]}}}}\n"
        "  strict: {stage: data.filter, inputs: {documents: extracted},\n"
        "    config: {gopher_quality: {min_words: 9999}}}\n"
        "  deduped: {stage: data.dedup, inputs: {documents: strict}}\n"
    )
    for _ in range(runs):
        code, out, err = longcat(capfd, tmp_path, "run", str(recipe), "--json")
    assert code == 3
    assert [artifact["name"] for artifact in json.loads(out)["artifacts"]] == ["extracted", "strict"]
    assert err.startswith("longcat: step strict: strict@1: none of 3 documents is left: ")
    assert err.count("\n") == 1
    listed = json.loads(longcat(capfd, tmp_path, "artifacts", "list", "--json")[1])
    assert sorted(name for item in listed for name in item["names"]) == ["extracted@1", "strict@1"]
