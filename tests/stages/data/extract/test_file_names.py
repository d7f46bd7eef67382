"""Names of input files that are not UTF-8: in folders, patterns and alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from longcat.pipeline.errors import InputError

NAME = os.fsdecode(b"caf\xe9.txt")
ESCAPED = "caf\\udce9.txt"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of two files, one with such a name, below a folder with such a name."""
    made = tmp_path / os.fsdecode(b"d\xff")
    made.mkdir()
    (made / NAME).write_text("one text")
    (made / "plain.txt").write_text("another text")
    return made


@pytest.mark.parametrize("given", ["", NAME, "*.txt", os.fsdecode(b"caf\xe9*")])
def test_files_with_such_names_are_read(folder: Path, extract: Any, given: str) -> None:
    made = extract(folder / given)
    found = {d.source.rpartition("/")[2]: d.text for d in made.documents}
    assert found[ESCAPED] == "one text"
    assert made.artifact.damage() == []


def test_a_changed_file_makes_another_artifact(folder: Path, extract: Any) -> None:
    first = extract(folder).artifact.id
    assert extract(folder).artifact.id == first
    (folder / NAME).write_text("changed")
    assert extract(folder).artifact.id != first


def test_such_names_that_are_skipped_or_missing_are_named(
    folder: Path, extract: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / os.fsdecode(b"x.\xe9")).write_text("unknown")
    made = extract(folder)
    assert b".\\udce9 1 (named" in caplog.text.encode()
    assert [p["file"].rpartition("/")[2] for p in made.problems] == ["x.\\udce9"]
    with pytest.raises(InputError, match="no such file"):
        extract(folder / os.fsdecode(b"absent\xe9.txt"))
