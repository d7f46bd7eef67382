"""`--input -`: what comes through a pipe is read like a file."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from longcat.pipeline.errors import UsageError
from longcat.stages.data.extract import standard_input

LINES = b'{"text": "one", "id": 1}\n{"text": "two", "id": 2}\n'


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set what standard input holds."""

    def fill(content: bytes, *, terminal: bool = False) -> None:
        standard_input.copied.cache_clear()
        stream = SimpleNamespace(buffer=io.BytesIO(content), isatty=lambda: terminal)
        monkeypatch.setattr(sys, "stdin", stream)

    yield fill
    standard_input.copied.cache_clear()


@pytest.mark.parametrize("content", [LINES, gzip.compress(LINES, mtime=0)])
def test_standard_input_is_read_with_a_format(pipe: Any, extract: Any, content: bytes) -> None:
    pipe(content)
    made = extract("-", format="jsonl")
    assert [(d.text, d.source) for d in made.documents] == [("one", "-"), ("two", "-")]
    assert set(made.artifact.manifest.sources) == {"-"}


def test_the_same_content_gives_the_same_artifact_and_other_content_another(pipe: Any, extract: Any) -> None:
    ids = []
    for content in (LINES, LINES, LINES * 2):
        pipe(content)
        ids.append(extract("-", format="jsonl").artifact.id)
    assert ids[0] == ids[1] != ids[2]


def test_standard_input_beside_files(pipe: Any, extract: Any, tmp_path: Any) -> None:
    pipe(b"from the pipe")
    (tmp_path / "a.txt").write_text("from a file")
    made = extract("-", tmp_path / "a.txt", format="text")
    assert [d.text for d in made.documents] == ["from the pipe", "from a file"]


def test_standard_input_without_a_format_or_from_a_terminal_is_refused(pipe: Any, extract: Any) -> None:
    pipe(LINES)
    with pytest.raises(UsageError, match="no name to tell its format by") as caught:
        extract("-")
    assert "--format" in (caught.value.hint or "")
    pipe(LINES, terminal=True)
    with pytest.raises(UsageError, match="is a terminal"):
        extract("-", format="jsonl")
