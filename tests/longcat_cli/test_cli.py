"""The command line: help, JSON, exit codes, one-line errors."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longcat.cli import app
from longcat.cli.app import run


def longcat(capfd: pytest.CaptureFixture[str], store: Path, *arguments: str) -> tuple[int, str, str]:
    code = run(["--store", str(store), *arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text(
            f"Note {number}. " + "The river runs slowly past the old stone mill. " * 20
        )
    return folder


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom longcat.cli.app import run\n"
        "for args in (['--help'], ['data', '--help'], ['artifacts', 'list', '--help']):\n    run(args)\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'tokenizers', 'datasketch', 'transformers', 'longcat.pipeline.runner'}\n"
        "sys.exit(f'imported {heavy & set(sys.modules)}' if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)


def test_train_and_its_subcommands_are_imported_when_called(
    capfd: pytest.CaptureFixture[str], store_path: Path
) -> None:
    code = (
        "import sys\nfrom longcat.cli.app import run\n"
        "for args in (['train', '-h'], ['train', 'sweep', '-h'], ['train', 'verify', '-h']):\n    run(args)\n"
        "sys.exit(1 if {'torch', 'numpy'} & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)
    _, out, _ = longcat(capfd, store_path, "train", "--help")
    assert all(f"longcat train {name}" in out for name in ("sweep", "coord-check", "verify"))
    assert "--preset" in out
    arguments = ("train", "sweep", "--tokens", "tokens", "--preset", "tiny", "--steps", "5")
    assert longcat(capfd, store_path, *arguments)[0] == 4
    assert longcat(capfd, store_path, "train", "swep")[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        "data collect local",
        "data collect urls",
        "data extract",
        "data filter",
        "data dedup",
        "data decontaminate",
        "data inspect",
        "data train-quality",
        "data tokenizer",
        "data score",
        "data pack",
        "data mix",
        "train",
        "train sweep",
        "train coord-check",
        "train verify",
        "grow",
        "extend",
        "extend schedules list",
        "extend schedules show",
        "report",
        "eval",
        "generate",
        "chat",
        "serve",
        "import",
        "export",
        "model list",
        "model describe",
        "run",
        "recipes list",
        "artifacts lineage",
        "doctor",
    ],
)
def test_every_command_has_help_with_an_example(
    capfd: pytest.CaptureFixture[str], store_path: Path, command: str
) -> None:
    code, out, _ = longcat(capfd, store_path, *command.split(), "--help")
    assert code == 0
    assert f"longcat {command}" in out.split("Usage:")[1][20:], "the help shows how to call the command"
    assert not store_path.exists()


def test_a_stage_prints_the_documented_json(capfd: pytest.CaptureFixture[str], store_path: Path, notes: Path) -> None:
    arguments = ("data", "extract", "--input", str(notes), "--name", "notes", "--json")
    code, out, _ = longcat(capfd, store_path, *arguments)
    assert code == 0
    result = json.loads(out)
    assert {"id", "kind", "path", "name", "version", "counts", "metrics"} <= set(result)
    assert (result["name"], result["version"], result["reused"]) == ("notes", 1, False)
    assert result["counts"]["documents_out"] == 3
    assert json.loads(longcat(capfd, store_path, *arguments)[1])["reused"] is True
    listed = json.loads(longcat(capfd, store_path, "artifacts", "list", "--json")[1])
    assert [item["names"] for item in listed] == [["notes@1"]]


def test_dry_run_writes_nothing(capfd: pytest.CaptureFixture[str], store_path: Path, notes: Path) -> None:
    code, out, _ = longcat(capfd, store_path, "data", "extract", "--input", str(notes), "--dry-run", "--json")
    assert (code, json.loads(out)["steps"][0]["state"]) == (0, "missing")
    code, out, _ = longcat(capfd, store_path, "run", "smoke", "--dry-run", "--json")
    assert (code, {step["state"] for step in json.loads(out)["steps"]}) == (0, {"missing"})
    assert not store_path.exists()


def test_configuration_is_listed(capfd: pytest.CaptureFixture[str], store_path: Path) -> None:
    code, out, _ = longcat(capfd, store_path, "data", "pack", "--show-config", "--json")
    keys = {item["key"]: item for item in json.loads(out)}
    assert code == 0
    assert keys["validation_fraction"]["description"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "filter"], 2, "data.filter needs the input 'documents'"),
        (["data", "filter", "--documents", "nope"], 4, "no artifact 'nope'"),
        (["data", "extract", "--input", "/no/such/file"], 3, "no such file"),
        (["data", "extract", "--input", ".", "--set", "formts=x"], 3, "unknown key 'formts', did you mean 'formats'"),
        (["data", "extract", "--config", "/none.yaml"], 3, "/none.yaml: no such file"),
        (["data", "pack", "--set", "validation_fraction=much"], 3, "'validation_fraction'"),
        (["run", "dmeo"], 3, "no recipe 'dmeo'"),
        (["run", "smoke", "--set", "tran.steps=1"], 2, "no such step"),
        (["artifacts", "show", "x@1"], 4, "no artifact 'x@1'"),
        (["artifacts", "list", "--kind", "model"], 2, "kinds: crawl"),
        (["model", "describe", "longcat-flsh"], 4, "presets: demo, lc-100m"),
        (["import", "/no/such/folder"], 3, "/no/such/folder: no such folder"),
        (["export", "nothing", "--output", "/no/such/folder"], 4, "no artifact 'nothing'"),
        (["data", "extract", "--input", ".", "--name", "../evil"], 2, "is not a valid artifact name"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(
    capfd: pytest.CaptureFixture[str], store_path: Path, arguments: list[str], code: int, message: str
) -> None:
    found, out, err = longcat(capfd, store_path, *arguments)
    assert (found, out) == (code, "")
    assert err.startswith("longcat: ")
    assert err.count("\n") == 1
    assert message in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["list", "verify", "gc", "fsck"])
def test_a_folder_that_is_not_a_store_is_an_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    for name, message in (("absent", "there is no store here"), ("other", "this folder is not a store")):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "notes.txt").touch()
        code, out, err = longcat(capfd, tmp_path / name, "artifacts", command)
        assert (code, out) == (4, "")
        assert err.startswith(f"longcat: {tmp_path / name}: {message} (")
    (tmp_path / "empty").mkdir()
    assert longcat(capfd, tmp_path / "empty", "artifacts", command)[0] == 0


def test_an_unknown_command_is_a_usage_error(capfd: pytest.CaptureFixture[str], store_path: Path) -> None:
    code, _, err = longcat(capfd, store_path, "artifacts", "shw")
    assert code == 2
    assert "shw" in err


def test_damage_ends_with_code_5(capfd: pytest.CaptureFixture[str], store_path: Path, notes: Path) -> None:
    longcat(capfd, store_path, "data", "extract", "--input", str(notes), "--name", "notes")
    (shard,) = store_path.glob("documents/*/shard-00000.jsonl.zst")
    shard.write_bytes(shard.read_bytes()[:-2])
    code, _, err = longcat(capfd, store_path, "data", "filter", "--documents", "notes")
    assert (code, "shard-00000" in err) == (5, True)
    assert longcat(capfd, store_path, "artifacts", "verify")[0] == 5
    assert longcat(capfd, store_path, "artifacts", "gc", "--damaged", "--yes")[0] == 0
    assert longcat(capfd, store_path, "data", "extract", "--input", str(notes), "--name", "notes")[0] == 0
    assert longcat(capfd, store_path, "artifacts", "verify")[0] == 0


def test_a_store_that_cannot_be_written_is_one_line(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, notes: Path
) -> None:
    (tmp_path / "file").touch()
    code, _, err = longcat(capfd, tmp_path / "file" / "store", "data", "extract", "--input", str(notes))
    assert code == 1
    assert err.count("\n") == 1
    assert str(tmp_path / "file") in err


def test_recipes_can_be_copied_but_nothing_is_overwritten(
    capfd: pytest.CaptureFixture[str], store_path: Path, tmp_path: Path
) -> None:
    target = tmp_path / "mine.yaml"
    assert longcat(capfd, store_path, "recipes", "copy", "smoke", str(target))[0] == 0
    before = target.read_bytes()
    assert longcat(capfd, store_path, "recipes", "copy", "demo", str(target))[0] == 3
    assert target.read_bytes() == before
    assert longcat(capfd, store_path, "run", str(target), "--dry-run")[0] == 0


@pytest.fixture
def chain(notes: Path, tmp_path: Path) -> Path:
    """A recipe over the notes, of which one is empty and two are equal."""
    (notes / "0.txt").write_text("")
    (notes / "2.txt").write_bytes((notes / "1.txt").read_bytes())
    recipe = tmp_path / "chain.yaml"
    recipe.write_text(
        "name: chain\ndescription: Two stages.\nsteps:\n"
        f"  extracted: {{stage: data.extract, config: {{input: [{notes}]}}}}\n"
        "  deduped: {stage: data.dedup, inputs: {documents: extracted}}\n"
    )
    return recipe


def test_a_run_ends_with_the_counts_of_documents(
    capfd: pytest.CaptureFixture[str], store_path: Path, chain: Path
) -> None:
    code, out, _ = longcat(capfd, store_path, "run", str(chain))
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["data.extract", "extracted@1", "3", "2", "1", "no_text", "1"] in rows
    assert ["data.dedup", "deduped@1", "2", "1", "1", "exact_duplicate", "1"] in rows


def test_lineage_counts_the_documents_of_every_stage(
    capfd: pytest.CaptureFixture[str], store_path: Path, chain: Path
) -> None:
    longcat(capfd, store_path, "run", str(chain))
    code, out, _ = longcat(capfd, store_path, "artifacts", "lineage", "deduped", "--counts", "--json")
    extracted, deduped = json.loads(out)
    assert code == 0
    assert (extracted["names"], extracted["dropped"]) == (["extracted@1"], {"no_text": 1})
    assert (extracted["documents_in"], extracted["documents_out"], extracted["unaccounted"]) == (3, 2, 0)
    assert (deduped["documents_in"], deduped["documents_out"], deduped["unaccounted"]) == (2, 1, 0)
    assert "not accounted for" not in longcat(capfd, store_path, "artifacts", "lineage", "deduped", "--counts")[1]


def test_lineage_reports_counts_that_do_not_add_up(
    capfd: pytest.CaptureFixture[str], store_path: Path, chain: Path
) -> None:
    longcat(capfd, store_path, "run", str(chain))
    shown = json.loads(longcat(capfd, store_path, "artifacts", "show", "extracted", "--json")[1])
    path = Path(shown["path"]) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["counts"]["dropped"] = {}
    path.write_text(json.dumps(manifest))
    code, out, _ = longcat(capfd, store_path, "artifacts", "lineage", "deduped", "--counts")
    assert code == 0
    assert "1 not accounted for" in out


def test_a_report_is_one_page_and_prints_its_figures(
    capfd: pytest.CaptureFixture[str], store_path: Path, tmp_path: Path
) -> None:
    metrics, page = tmp_path / "run" / "metrics.jsonl", tmp_path / "page.html"
    metrics.parent.mkdir()
    metrics.write_text("".join(f'{{"step":{step},"loss":{6 - step},"tokens":{8 * step}}}\n' for step in (1, 2, 3)))
    arguments = ("report", str(metrics), "--output", str(page))
    code, out, _ = longcat(capfd, store_path, *arguments, "--json")
    assert code == 0
    result = json.loads(out)
    assert (result["output"], result["bytes"]) == (str(page), page.stat().st_size)
    assert result["runs"][0]["total_tokens"] == 24
    assert "<title>run" in page.read_text()
    with metrics.open("a") as stream:
        stream.write("broken\n")
    page.unlink()
    code, _, told = longcat(capfd, store_path, *arguments)
    assert (code, page.exists()) == (5, False)
    assert "metrics.jsonl:4: not a line of JSON" in told
    assert longcat(capfd, store_path, "report", "nobody")[0] == 4


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "/a/b: the disk is full (free some space and run again; finished shards are kept)",
        ),
        (OSError("28000 requested and 22496 written"), "the disk is full (free some space and run again; "),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full (free some space and "),
        (OSError(errno.EIO, "Input/output error", "/a"), "/a: Input/output error (check the disk (see `dmesg`"),
        (PermissionError(errno.EACCES, "Permission denied", "/a"), "/a: Permission denied"),
        (OSError("words"), "words"),
    ],
)
def test_a_system_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, line: str
) -> None:
    def fail(*given: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(app, "command", lambda: SimpleNamespace(main=fail))
    assert app.run(["doctor"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"longcat: {line}")
    assert told.count("\n") == 1


def test_a_signal_that_a_library_wraps_in_an_error_is_still_a_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrap(*given: Any, **options: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Exception as error:
            raise ValueError(f"Error building the serializer: {error}") from None

    monkeypatch.setattr(app, "command", lambda: SimpleNamespace(main=wrap))
    assert app.run(["doctor"]) == 130
    assert capsys.readouterr().err == "longcat: interrupted\n"
