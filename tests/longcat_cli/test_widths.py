"""Listings on terminals of any width: one line per artifact, and copyable text is complete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.tables import table
from longcat.cli.terminal import PlainConsole
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.store import Store

LONG = "cleaned-common-crawl-of-november"


@pytest.fixture
def publish(store: Store, publish_artifact: Any) -> Any:
    """Publish an artifact with long counts and metrics under several names."""

    def make(number: int, *names: str, stage: str = "data.collect.local") -> Artifact:
        identifier = f"0974ce617f99cd{number:02x}"
        made: Artifact = publish_artifact(
            identifier,
            "documents",
            stage,
            lambda output: (output / "shard-00000.jsonl.zst").write_bytes(b"x" * 12_345),
            config={"languages": ["en", "de"], "limit": None, "strict": True},
            counts={"documents_in": 123_456_789, "documents_out": 98_765_432, "characters_out": 1_234_567_890},
            metrics={"mean_quality": 0.123456, "mean_characters": 1234.5},
            started="2025-01-31T08:15:42Z",
            duration_seconds=75.0,
        )
        for name in names:
            store.refs.publish(name, identifier, "documents", "2025-01-31T08:15:42Z")
        return made

    return make


@pytest.mark.parametrize("columns", [100, 80, 120, 200])
def test_an_artifact_is_one_line_with_its_complete_id(terminal: Any, store: Store, publish: Any, columns: int) -> None:
    made = [publish(1, LONG), publish(2, "short", stage="data.decontaminate"), publish(3)]
    made.append(publish(4, *(f"{LONG}-{word}" for word in "abcd")))
    shown = terminal("--store", str(store.root), "artifacts", "list", columns=columns)
    assert shown.end() == 0
    head, *rows = [line for line in shown.lines if line.strip()]
    assert len(rows) == len(made)
    assert max(map(len, [head, *rows])) <= columns
    for row, artifact in zip(rows, made, strict=True):
        assert artifact.id in row.split()
        assert artifact.manifest.stage in row.split()
    assert f"{LONG}@1" in rows[0].split()
    assert f"{LONG}-d@1 +3" in rows[3]
    if columns >= 100:
        assert "2025-01-31 08:15Z" in rows[0]
    assert ("documents_in 123,456,789" in rows[0]) == (columns == 200)


def test_a_name_longer_than_the_terminal_is_only_wrapped_by_the_terminal(
    terminal: Any, store: Store, publish: Any
) -> None:
    made = publish(1, "n" * 100)
    shown = terminal("--store", str(store.root), "artifacts", "list", columns=80)
    assert shown.end() == 0
    (row,) = [line for line in shown.lines if "nnn" in line]
    assert row.split() == ["n" * 100 + "@1", made.id, "data.collect.local"]


def test_a_pipe_gets_whole_lines(store: Store, publish: Any) -> None:
    publish(1, "n" * 100)
    publish(2, *(f"{LONG}-{word}" for word in "abcd"))
    arguments = ["--store", str(store.root), "artifacts", "list"]
    done = subprocess.run([sys.executable, "-m", "longcat.cli", *arguments], capture_output=True, text=True, check=True)
    head, first, second = done.stdout.splitlines()
    assert head.split() == ["names", "kind", "id", "stage", "size", "made", "counts"]
    assert first.endswith("documents_in 123,456,789, documents_out 98,765,432, characters_out 1,234,567,890")
    assert first.startswith(
        "n" * 100 + "@1  documents  0974ce617f99cd01  data.collect.local  12.3 kB  2025-01-31 08:15Z"
    )
    assert [line.index("2025-01-31") for line in (first, second)] == [head.index("made")] * 2


@pytest.mark.parametrize(
    "command", ["show NAME", "diff NAME other", "lineage NAME", "lineage NAME --counts", "gc", "verify"]
)
@pytest.mark.parametrize("columns", [100, 80])
def test_copyable_text_is_never_wrapped(terminal: Any, store: Store, publish: Any, command: str, columns: int) -> None:
    made, unnamed = publish(1, LONG), publish(3)
    other = publish(2, "other")
    shown = terminal("--store", str(store.root), "artifacts", *command.replace("NAME", LONG).split(), columns=columns)
    assert shown.end() == 0
    text = shown.text
    for wanted in {
        "show NAME": (
            f"{LONG}@1",
            f"documents/{made.id}",
            str(made.path),
            "2025-01-31T08:15:42Z",
            "shard-00000.jsonl.zst",
        ),
        "diff NAME other": ("no difference",),
        "lineage NAME": (f"{LONG}@1 documents/{made.id} data.collect.local",),
        "lineage NAME --counts": (f"{LONG}@1",),
        "gc": (str(unnamed.path),),
        "verify": (f"{LONG}@1", f"documents/{made.id}", f"documents/{other.id}"),
    }[command]:
        assert wanted in text
    for word in ("None", "True", "['"):
        assert word not in text


def test_a_recipe_fits(terminal: Any, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for arguments in (("run", "demo", "--dry-run"), ("recipes", "list")):
        shown = terminal("--store", str(store), *arguments, columns=100)
        assert shown.end() == 0
        assert max(map(len, shown.lines)) <= 100
    shown = terminal("--store", str(store), "run", "demo", "--dry-run", columns=100)
    shown.end()
    rows = [line.split() for line in shown.lines if "/" in line]
    assert [row[0] for row in rows if row[1] == "data.extract"] == ["extracted"]
    assert all(len(row[2].partition("/")[2]) == 16 for row in rows)


def test_columns_are_removed_in_order_and_prose_is_wrapped_between_words() -> None:
    rows = table("id", ">size", "~meaning", "counts", leaves=("counts…", "size"))
    rows.add_row("0974ce617f99cda9", "12.3 MB", "what it is, in more words than fit", "documents_in 1, documents_out 2")

    def at(width: int) -> list[str]:
        console = PlainConsole(width=width)
        with console.capture() as capture:
            console.print(rows)
        return capture.get().splitlines()

    assert at(120)[1].split()[-4:] == ["documents_in", "1,", "documents_out", "2"]
    assert at(70)[1].endswith("  documents_in 1, docu…")
    assert at(50)[0].split() == ["id", "size", "meaning"]
    assert at(40)[0].split() == ["id", "meaning"]
    assert at(40)[1].startswith("0974ce617f99cda9  what it is, in more")
    assert at(10)[1].startswith("0974ce617f99cda9  what it is, in")
