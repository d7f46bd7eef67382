"""`longcat bench serve` against this server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run

LOAD = ("--requests", "4", "--output-tokens", "5", "--ignore-eos", "--quiet", "--json", "--prompt-tokens")


@pytest.mark.parametrize("options", [("--api", "chat"), ("--rate", "50"), ("--vocabulary", "300")])
def test_all_requests_are_answered_and_counted(
    shared: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    file = tmp_path / "results.json"
    assert run(["bench", "serve", shared.url, *LOAD, "40", *options, "--output", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(file.read_text())
    assert (found["completed"], found["errors"], found["output_tokens"]) == (4, {}, 20)
    assert found["tokens_from"] == "usage" and found["settings"]["model"] == "tiny"
    # Random words have this length on average; token ids have it exactly.
    assert found["prompt_tokens"] == 160 if "--vocabulary" in options else 100 < found["prompt_tokens"] < 240
    assert found["ttft_ms"]["p50"] > 0


def test_prompts_that_are_too_long_are_counted_as_errors(shared: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "serve", shared.url, *LOAD, "500", "--vocabulary", "300"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["errors"] == {"400": 4}
    assert "no request was completed" in captured.err
