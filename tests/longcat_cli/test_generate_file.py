"""`longcat generate --input`: order, values of a line, continued output, errors by line; options of one text."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from tests.longcat_cli.conftest import tiny_checkpoint

CONTEXT = 192
LINES: list[dict[str, Any]] = [
    {"id": "a", "prompt": "The quick", "max_tokens": 6},
    {"prompt": "The quick", "max_tokens": 6},
    {"id": 3, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "n": 2},
    {"prompt": "The quick", "temperature": 0, "stop": " "},
    {"id": "long", "prompt": "0123456789" * 40},
    {"prompt": "brown fox", "max_tokens": 3, "seed": 1},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", CONTEXT))


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return file


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def words(checkpoint: str, *more: str) -> list[str]:
    return ["--quiet", "generate", "--checkpoint", checkpoint, "--device", "cpu", "--threads", "1", *more]


def records(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_line_is_answered_in_order_with_its_own_values(
    checkpoint: str, prompts: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(checkpoint, "--input", str(prompts), "--output", str(answers), "--seed", "7")
    assert run(arguments) == 3
    assert f"{answers}: 1 of 6 lines have an error instead of an answer" in capsys.readouterr().err
    found = records(answers)
    assert [record["line"] for record in found] == [1, 2, 3, 4, 5, 6]
    assert [record.get("id") for record in found] == ["a", None, 3, None, "long", None]
    assert [len(record.get("choices", ())) for record in found] == [1, 1, 2, 1, 0, 1]
    assert found[0]["usage"]["completion_tokens"] == 6
    assert found[0]["choices"][0]["finish_reason"] == "length"
    # The seed of a line is that of the command plus its place.
    assert found[0]["choices"] != found[1]["choices"]
    assert found[3]["choices"][0]["finish_reason"] in ("stop", "length")
    assert f"context of {CONTEXT} tokens" in found[4]["error"]


def test_a_line_equals_the_command_for_one_prompt(
    checkpoint: str, prompts: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    greedy = ("--temperature", "0", "--max-tokens", "6")
    prompts.write_text('{"prompt": "The quick"}\n')
    assert run(words(checkpoint, "--input", str(prompts), "--output", str(answers), *greedy)) == 0
    assert run(words(checkpoint, "--prompt", "The quick", *greedy, "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    (record,) = records(answers)
    assert record["choices"] == printed["choices"]
    assert record["usage"] == printed["usage"]
    assert printed["text"] == printed["choices"][0]["text"]


def test_an_output_is_continued_to_the_same_bytes(
    checkpoint: str, prompts: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(checkpoint, "--input", str(prompts), "--output", str(answers), "--seed", "7", "--json")
    assert run(arguments) == 3
    whole = answers.read_bytes()
    capsys.readouterr()
    for kept in (0, 1, len(whole) // 2, len(whole) - 1):
        answers.write_bytes(whole[:kept])
        assert run(arguments) == 3
        assert answers.read_bytes() == whole
        summary = json.loads(capsys.readouterr().out)
        assert summary["lines"] == 6
        assert summary["failed"] == 1
        assert summary["resumed"] == whole[:kept].count(b"\n")
    assert run(arguments) == 3
    assert json.loads(capsys.readouterr().out)["resumed"] == 6


def test_other_options_or_another_input_do_not_continue_an_output(
    checkpoint: str, prompts: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = words(checkpoint, "--input", str(prompts), "--output", str(answers))
    assert run([*arguments, "--seed", "7"]) == 3
    before = answers.read_bytes()
    assert run([*arguments, "--seed", "8"]) == 3
    assert f"{answers}: line 1 answers another input, or other options" in capsys.readouterr().err
    prompts.write_text(prompts.read_text().replace('"max_tokens": 3', '"max_tokens": 2'))
    assert run([*arguments, "--seed", "7"]) == 3
    assert f"{answers}: line 6 answers another input, or other options" in capsys.readouterr().err
    assert answers.read_bytes() == before


def test_an_interrupted_batch_is_continued(checkpoint: str, tmp_path: Path, answers: Path) -> None:
    prompts = tmp_path / "many.jsonl"
    prompts.write_text("".join(f'{{"prompt": "The quick {number}"}}\n' for number in range(200)))
    more = ("--input", str(prompts), "--output", str(answers), "--temperature", "0", "--max-tokens", "12")
    arguments = [sys.executable, "-m", "longcat.cli", *words(checkpoint, *more)]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as command:
        deadline = time.monotonic() + 120
        while (not answers.exists() or answers.read_bytes().count(b"\n") < 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    told = "longcat: interrupted (run the same command again to resume from here)\n"
    assert (err, command.returncode) == (told, 130)
    begun = answers.read_bytes()
    assert begun.count(b"\n") < 200
    assert run(words(checkpoint, *more)) == 0
    assert answers.read_bytes().startswith(begun[: begun.rindex(b"\n")])
    assert [record["line"] for record in records(answers)] == list(range(1, 201))


def test_answers_go_to_stdout_without_an_output(
    checkpoint: str, prompts: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    prompts.write_text('{"prompt": "The quick", "max_tokens": 2}\n{"prompt": "brown", "max_tokens": 2}\n')
    assert run(words(checkpoint, "--input", str(prompts))) == 0
    told = capfdbinary.readouterr()
    assert [json.loads(line)["line"] for line in told.out.splitlines()] == [1, 2]
    assert told.err == b""


def test_a_schema_is_kept_to(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(
        '{"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": false}'
    )
    arguments = words(checkpoint, "--prompt", "The quick", "--json-schema", str(schema), "--json", "-n", "3")
    assert run([*arguments, "--temperature", "2", "--top-p", "1"]) == 0
    found = json.loads(capsys.readouterr().out)["choices"]
    assert len(found) == 3
    for choice in found:
        assert json.loads(choice["text"])["a"] in (True, False)
    prompts, answers = tmp_path / "p.jsonl", tmp_path / "a.jsonl"
    line = {"prompt": "x", "json_schema": {"type": "array", "items": {"const": 1}, "maxItems": 2}}
    prompts.write_text(json.dumps(line) + "\n" + json.dumps({**line, "json_schema": {"type": "nothing"}}) + "\n")
    assert run(words(checkpoint, "--input", str(prompts), "--output", str(answers))) == 3
    good, bad = records(answers)
    assert json.loads(good["choices"][0]["text"]) in ([], [1], [1, 1])
    assert bad["error"].startswith("json_schema: ")


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--input", "p", "--prompt", "a"], 2, "--prompt and --input are both given"),
        (["--prompt", "a", "--output", "b"], 2, "--output needs --input"),
        (["--input", "nowhere.jsonl"], 3, "nowhere.jsonl: No such file"),
        (["--prompt", "a", "-n", "2"], 2, "2 answers cannot be told apart as text"),
        (["--prompt", "a", "--json-schema", "nowhere.json"], 3, "nowhere.json: No such file"),
        (["--prompt", "a", "--min-p", "2"], 2, "--min-p"),
        (["--prompt", "a", "--min-tokens", "200"], 3, "min_tokens"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    checkpoint: str, capsys: pytest.CaptureFixture[str], more: list[str], code: int, message: str
) -> None:
    assert run(words(checkpoint, *more)) == code
    assert message in capsys.readouterr().err


def test_json_needs_an_output_of_its_own(checkpoint: str, prompts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words(checkpoint, "--input", str(prompts), "--json")) == 2
    assert "--json prints a summary" in capsys.readouterr().err


def test_damaged_lines_stop_the_command_before_the_model_is_loaded(
    prompts: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    prompts.write_text('{"prompt": "a"}\n{"promt": "b"}\n')
    assert run(words(str(tmp_path), "--input", str(prompts), "--output", str(answers))) == 3
    assert f"{prompts}: 1 of 2 lines are damaged: line 2 " in capsys.readouterr().err
    assert not answers.exists()


def test_sampling_options_reach_the_sampler(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    def text(*more: str) -> str:
        assert run(words(checkpoint, "--prompt", "The quick", "--max-tokens", "24", "--json", *more)) == 0
        found: str = json.loads(capsys.readouterr().out)["text"]
        return found

    greedy = text("--temperature", "0")
    assert text("--temperature", "1", "--min-p", "1", "--seed", "3") == greedy
    assert text("--temperature", "0", "--repetition-penalty", "50") != greedy
    assert text("--temperature", "0", "--frequency-penalty", "2", "--presence-penalty", "2") != greedy
    assert (
        text("--temperature", "0", "--stop", greedy[3:5], "--stop", "none of it") == greedy[: greedy.index(greedy[3:5])]
    )
