"""External text is shown and never interpreted: no markup, no escapes, no broken names."""

from __future__ import annotations

import ast
import json
import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.cli import console
from longcat.cli.app import run
from longcat.cli.terminal import PlainConsole, line, styled
from longcat.pipeline.printable import STEERING
from longcat.pipeline.store import Store

HOSTILE = "\x1b[2J\x1b]0;t\x07 [/b][red] \x9b2J \u202e \udcff :smile:"
SHOWN = "\\x1b[2J\\x1b]0;t\\x07 [/b][red] \\x9b2J \\u202e \\udcff :smile:"


def longcat(capfd: pytest.CaptureFixture[str], store: Path, *arguments: str) -> tuple[int, str, str]:
    code = run(["--store", str(store), *arguments])
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def plain(text: str) -> bool:
    return not STEERING.search(text)


@pytest.fixture
def hostile_folder(tmp_path: Path) -> Path:
    """A folder of notes whose names and texts contain markup and escapes."""
    folder = tmp_path / "nm"
    folder.mkdir()
    for name in ("[/b].txt", "esc\x1b[31m.txt", "back\b\r.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("The river runs slowly past the mill. " * 9 + "\x1b[2J\x1b]0;owned\x07 [/red]")
    return folder


def test_markup_and_escapes_in_configuration_and_paths_are_shown(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, hostile_folder: Path
) -> None:
    store = tmp_path / "store"
    lines = tmp_path / "x.jsonl"
    lines.write_text(json.dumps({"[/red]tf": "The river runs slowly past the old stone mill. " * 9}))
    made = longcat(
        capfd, store, "data", "extract", "--input", str(lines), "--text-field", "[/red]tf", "--name", "marked"
    )
    files = [str(path) for path in hostile_folder.rglob("*.txt")]
    inputs = [word for path in files for word in ("--input", path)]
    other = longcat(capfd, store, "data", "extract", *inputs, "--name", "other")
    assert (made[0], other[0]) == (0, 0)
    code, out, _ = longcat(capfd, store, "artifacts", "show", "marked")
    assert code == 0
    assert "[/red]tf" in out
    code, out, _ = longcat(capfd, store, "artifacts", "diff", "marked", "other")
    assert code == 0
    assert "nm/[/b].txt" in out
    assert "esc\\x1b[31m.txt" in out
    assert plain(out)
    for command in (["artifacts", "list"], ["artifacts", "lineage", "other"], ["artifacts", "verify"]):
        code, out, err = longcat(capfd, store, *command)
        assert code == 0
        assert plain(out + err)


def test_errors_show_the_name_without_interpreting_it(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    for arguments in (
        ("artifacts", "show", "no\x1b[2J"),
        ("run", "no\x1b[2J\u202e"),
        ("data", "extract", "--input", "no\x1b[2J"),
        ("--debug", "data", "extract", "--input", "no\x1b[2J"),
    ):
        code, out, err = longcat(capfd, store, *arguments)
        assert code in (3, 4)
        assert "\\x1b[2J" in err
        assert plain(out + err)


def test_inspect_shows_hostile_documents(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store, source = tmp_path / "store", tmp_path / "source.jsonl"
    texts = ["short \x1b[2J\x1b]0;owned\x07 [/red] \u202e", "The mill stands by the old river. " * 60]
    rows = [{"text": text, "id": f"id-{number}\x1b[31m[/b]"} for number, text in enumerate(texts)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert longcat(capfd, store, "data", "extract", "--input", str(source), "--name", "raw")[0] == 0
    arguments = ("--set", "language.enabled=false", "--name", "filtered")
    assert longcat(capfd, store, "data", "filter", "--documents", "raw", *arguments)[0] == 3, "nothing is left"
    code, out, err = longcat(capfd, store, "data", "inspect", "filtered")
    assert code == 0
    assert "short \\x1b[2J\\x1b]0;owned\\x07 [/red] \\u202e" in out
    assert plain(out + err)


def test_json_is_exact_and_has_no_escapes(capfd: pytest.CaptureFixture[str]) -> None:
    value = {HOSTILE: [HOSTILE, "größe\n\t"]}
    console.print_json(value)
    out = capfd.readouterr().out
    assert json.loads(out) == value
    assert plain(out)
    assert "größe" in out


def test_log_lines_and_progress_are_printable(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("apart")
    logger.addHandler(console.StderrHandler())
    logger.warning("dropped %s", HOSTILE)
    with console.PlainProgress().task(HOSTILE, total=1, unit="pages") as bar:
        bar.set(page=HOSTILE)
    err = capfd.readouterr().err
    assert err.count(SHOWN) == 3
    assert plain(err)


def test_a_live_bar_is_printable(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = PlainConsole(record=True, width=200, force_terminal=True, quiet=False)
    monkeypatch.setattr(console, "err", lambda: shown)
    with console.RichProgress().task(f"reading {HOSTILE}", total=2, unit="{pages}[/b]") as bar:
        bar.set(page=HOSTILE)
        bar.advance()
    text = shown.export_text()
    assert f"reading {SHOWN}" in text
    assert "{pages}[/b]" in text


def test_a_string_is_plain_text_everywhere(capfd: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = Table("head\x1b[2J[/b]", title="[/b]\x9b")
    rows.add_row(HOSTILE)
    made = PlainConsole(width=200)
    for thing in (HOSTILE, rows, Text(HOSTILE), line(HOSTILE, styled(HOSTILE, "red"))):
        made.print(thing)
    out = capfd.readouterr().out
    assert plain(out)
    assert out.count(SHOWN) >= 4


def test_no_markup_in_printed_strings() -> None:
    """Markup in a string would be printed literally; styles are made by `styled`."""
    markup = re.compile(r"\[/?(bold|dim|italic|red|green|yellow|cyan|/)?\]|\[(bold|dim|red|green|yellow|cyan)\]")
    found = []
    for path in Path(console.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if name in ("print", "add_row", "line", "styled", "table", "say"):
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                found += [f"{path.name}: {text}" for text in texts if isinstance(text, str) and markup.search(text)]
    assert found == []


def test_a_terminal_gets_nothing_from_manifests(terminal: Any, tmp_path: Path, hostile_folder: Path) -> None:
    store = tmp_path / "store"
    shown = terminal("--store", str(store), "data", "extract", "--input", str(hostile_folder), "--name", "enemy")
    assert shown.end() == 0
    (path,) = store.glob("documents/*/manifest.json")
    manifest = json.loads(path.read_text())
    hostile = HOSTILE.encode(errors="ignore").decode()  # a lone surrogate is not valid JSON text
    manifest["code_version"] = hostile
    manifest["metrics"] = {hostile: hostile, "rows": [{hostile: hostile}]}
    path.write_text(json.dumps(manifest))
    assert Store(store).resolve("enemy").manifest.code_version == hostile
    for command in ("show", "lineage"):
        shown = terminal("--store", str(store), "artifacts", command, "enemy")
        assert shown.end() == 0
        for steering in ("\x1b[2J", "\x1b]", "\x07", "\x9b", "\u202e", "\b"):
            assert steering not in shown.shown
    assert "by code \\x1b[2J" in terminal_text(terminal, store)


def terminal_text(terminal: Any, store: Path) -> str:
    shown = terminal("--store", str(store), "artifacts", "show", "enemy", columns=400)
    assert shown.end() == 0
    return str(shown.shown)


def test_stdout_has_only_data_while_a_terminal_shows_progress(tmp_path: Path, hostile_folder: Path) -> None:
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "longcat.cli", "--store", str(tmp_path / "store")]
    arguments = ["data", "extract", "--input", str(hostile_folder), "--json"]
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=child, check=True)
    assert json.loads(done.stdout)["counts"]["documents_out"] == 3
    assert "extracting" in os.read(parent, 1 << 16).decode()
    quiet = subprocess.run([*command, *arguments, "-q"], capture_output=True, check=True)
    assert (json.loads(quiet.stdout)["reused"], quiet.stderr) == (True, b"")
    os.close(child)
    os.close(parent)


def test_characters_missing_in_the_encoding_are_escaped(tmp_path: Path) -> None:
    source = tmp_path / "größe-日本.txt"
    source.write_text("The river runs slowly past the mill. " * 9)
    command = [sys.executable, "-m", "longcat.cli", "--store", str(tmp_path / "store")]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}

    def call(*arguments: str) -> str:
        done = subprocess.run([*command, *arguments], capture_output=True, check=True, env=ascii_only)
        return done.stdout.decode("ascii")

    call("data", "extract", "--input", str(source), "--name", "one", "-q")
    assert "gr\\xf6\\xdfe-\\u65e5\\u672c.txt" in call("artifacts", "show", "one")
    assert json.loads(call("artifacts", "show", "one", "--json"))["config"]["input"] == [str(source)]
    assert "documents/" in call("artifacts", "lineage", "one")


@pytest.mark.parametrize("stage", ["data pack", "data filter", "eval", "train"])
def test_a_configuration_is_listed_without_python(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, stage: str
) -> None:
    code, out, _ = longcat(capfd, tmp_path / "store", *stage.split(), "--show-config")
    assert code == 0
    for notation in ("None", "True", "False", "()", "('", "[]", "Config(", "Options("):
        assert notation not in [word for line in out.splitlines() for word in line.split()[1:2]], notation
    listed = json.loads(longcat(capfd, tmp_path / "store", *stage.split(), "--show-config", "--json")[1])
    texts = [item["value"] for item in listed if isinstance(item["value"], str)]
    assert [text for text in texts if text.startswith(("(", "["))] in ([], ["(required)"])
