"""`longcat generate`: prompts from options, files and stdin, and the default length."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.cli.prompts import MAX_PROMPT_BYTES, prompt_text
from longcat.pipeline.errors import InputError
from tests.longcat_cli.conftest import tiny_checkpoint

CONTEXT = 64


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint whose context is shorter than the default length."""
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", CONTEXT))


def generate(checkpoint: str, *more: str) -> int:
    return run(["generate", "--checkpoint", checkpoint, "--device", "cpu", "--threads", "1", *more])


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))


def test_the_default_length_is_what_fits(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(checkpoint, "--prompt", "The quick", "--temperature", "0") == 0
    assert len(capsys.readouterr().out) > len("The quick")


def test_a_length_that_was_asked_for_is_not_shortened(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(checkpoint, "--prompt", "The quick", "--max-tokens", "100") == 3
    shown = capsys.readouterr().err
    assert "100 more were requested" in shown
    assert f"context of {CONTEXT} tokens" in shown


def test_a_prompt_that_fills_the_context_is_refused(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(checkpoint, "--prompt", "0123456789" * 10) == 3
    assert f"context of {CONTEXT} tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"The library\n", "The library"),
        (b"The library\r\n", "The library"),
        (b"The library", "The library"),
        (b"two\n\n", "two\n"),
        (b"a\r", "a\r"),
        (b"\xef\xbb\xbfa \n", "\ufeffa "),
    ],
)
def test_one_newline_at_the_end_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, text: str
) -> None:
    type_in(monkeypatch, data)
    assert prompt_text(None, None) == text
    file = tmp_path / "prompt.txt"
    file.write_bytes(data)
    assert prompt_text(None, file) == text
    assert prompt_text("The library\n", None) == "The library\n"


def test_text_of_a_pipe_equals_the_option(
    checkpoint: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = ("--temperature", "0", "--max-tokens", "5", "--json")
    assert generate(checkpoint, "--prompt", "The quick", *greedy) == 0
    expected = json.loads(capsys.readouterr().out)
    type_in(monkeypatch, b"The quick\n")
    assert generate(checkpoint, *greedy) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InputError, match=message) as caught:
            prompt_text(None, path)
        assert str(path) in str(caught.value)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (MAX_PROMPT_BYTES + 1))
    with pytest.raises(InputError, match="longer than"):
        prompt_text(None, large)


def test_two_prompts_are_refused(checkpoint: str, capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert generate(checkpoint, "--prompt", "a", "--file", str(tmp_path / "b")) == 2
    assert "--prompt and --file are both given" in capsys.readouterr().err


SMALL = ("engine.offload.block=8", "engine.offload.resident_blocks=2", "engine.max_sequences=1")


def settings(*more: str) -> list[str]:
    return [word for one in (*SMALL, *more) for word in ("--set", one)]


def test_an_offloaded_cache_tells_its_figures(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = settings("engine.offload.tier=disk", f"engine.offload.folder={tmp_path}", "engine.offload.measure_every=1")
    assert generate(checkpoint, "--prompt", "The quick brown fox", "--temperature", "0", "--json", *place) == 0
    told = json.loads(capsys.readouterr().out)
    figures = told["offload"]
    assert sorted(figures) == ["cache_bytes", "hit_rate", "moved_bytes", "recall", "resident_bytes"]
    assert 0 < figures["resident_bytes"] < figures["cache_bytes"] and figures["moved_bytes"] > 0
    if told["usage"]["prompt_tokens"] + told["usage"]["completion_tokens"] > 3 * 8:
        assert 0 < figures["recall"] < 1 and 0 < figures["hit_rate"] <= 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["engine.offload.tier=tape"], "'offload.tier'"),
        (["engine.offload.tier=disk"], "tier = disk needs a folder"),
        (["engine.offload.tier=disk", "engine.offload.folder=/nowhere"], "there is no such folder"),
        (["engine.offload.tier=memory", "engine.cache_tokens=8"], "nothing would be saved"),
        (["serve.page=false"], "unknown key 'serve'"),
    ],
)
def test_wrong_settings_are_named(
    more: list[str], told: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(checkpoint, "--prompt", "The", *settings(*more)) == 3
    assert told in capsys.readouterr().err
