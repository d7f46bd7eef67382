"""`longcat bench serve` against a fake server and against `longcat serve`."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.pipeline.errors import InputError
from longcat.stages.bench.serve.events import MAX_EVENT_BYTES, BrokenStreamError, read_events
from longcat.stages.bench.serve.options import LoadOptions
from longcat.stages.bench.serve.prompts import read_prompts, words_for
from tests.stages.bench.fake_server import FakeServer, running

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with running(FakeServer()) as server:
        yield server


def bench(capsys: Captured, url: str, *options: str) -> dict[str, Any]:
    code = run(["bench", "serve", url, "--requests", "6", "--output-tokens", "4", "--quiet", "--json", *options])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def failure(capsys: Captured, *arguments: str) -> tuple[int, str]:
    code = run(["bench", "serve", *arguments, "--quiet"])
    return code, capsys.readouterr().err


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("load", [("--rate", "200"), ("--concurrency", "2")])
def test_every_request_is_sent_and_counted(fake: FakeServer, capsys: Captured, api: str, load: tuple[str, str]) -> None:
    found = bench(capsys, fake.url, "--api", api, *load, "--prompt-tokens", "43")
    assert (found["requests"], found["completed"], found["errors"]) == (6, 6, {})
    assert found["output_tokens"] == 24 and found["tokens_from"] == "usage" and found["cached_tokens"] == 6
    assert found["settings"]["model"] == "fake-model"
    # The fake tokenizer is (2 words + 3) tokens, which two short requests reveal.
    assert found["prompt_tokens"] == 6 * 43
    bodies = fake.received[2:]
    assert len(bodies) == 6 and all(body["stream"] and body["model"] == "fake-model" for body in bodies)
    assert len({json.dumps(body) for body in bodies}) == 6
    assert all(found[name]["p99"] >= found[name]["p50"] > 0 for name in ("ttft_ms", "tpot_ms", "e2e_ms"))


def test_the_seed_fixes_the_prompts(fake: FakeServer, capsys: Captured) -> None:
    for seed in ("1", "1", "2"):
        bench(capsys, fake.url, "--seed", seed, "--concurrency", "1")
    first, second, third = (fake.received[start + 2 : start + 8] for start in (0, 8, 16))
    assert first == second != third


def test_token_ids_fields_and_full_length(fake: FakeServer, capsys: Captured) -> None:
    options = ("--vocabulary", "50", "--prompt-tokens", "9", "--ignore-eos", "--body", '{"temperature": 0}')
    assert bench(capsys, fake.url, *options)["prompt_tokens"] == 54
    body = fake.received[-1]
    assert all(0 <= token < 50 for token in body["prompt"])
    assert body["ignore_eos"] is True and body["temperature"] == 0


def test_prompts_of_a_file_are_sent_over_and_over(fake: FakeServer, capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"prompt": "two words", "max_tokens": 2}\n')
    assert bench(capsys, fake.url, "--prompts", str(file), "--concurrency", "1")["output_tokens"] == 3 * 4 + 3 * 2
    assert [body["prompt"] for body in fake.received[1:]] == ["one", "two words"] * 3


def test_no_request_is_sent_after_the_duration(fake: FakeServer, capsys: Captured) -> None:
    code = run(["bench", "serve", fake.url, "--duration", "0.05", "--rate", "100", "--json", "--quiet"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 5
    code = run(["bench", "serve", fake.url, "--duration", "0.05", "--concurrency", "1", "--json", "--quiet"])
    assert code == 0 and json.loads(capsys.readouterr().out)["requests"] >= 1


def test_errors_are_counted_by_status(fake: FakeServer, capsys: Captured) -> None:
    fake.statuses = [200, 200, 429, 503, 429]
    found = bench(capsys, fake.url)
    assert found["errors"] == {"429": 2, "503": 1} and found["completed"] == 3
    assert found["error_details"] == {"429": "status 429", "503": "status 503"}


def test_a_broken_stream_is_an_error(fake: FakeServer, capsys: Captured) -> None:
    def cut(events: list[Any]) -> list[Any]:
        return events[:-1] if len(fake.received) == 4 else events

    fake.stream = cut
    found = bench(capsys, fake.url, "--concurrency", "1")
    assert found["errors"] == {"stream": 1}
    assert found["error_details"] == {"stream": "the stream ended before [DONE]"}


def test_an_answer_that_takes_too_long_is_an_error(fake: FakeServer, capsys: Captured) -> None:
    fake.answered = 5
    found = bench(capsys, fake.url, "--concurrency", "1", "--timeout", "0.3")
    assert found["errors"] == {"timeout": 3} and found["completed"] == 3


def test_an_error_event_is_an_error(fake: FakeServer, capsys: Captured) -> None:
    fake.stream = lambda events: [{"error": {"message": "lost"}}, "[DONE]"] if len(fake.received) > 2 else events
    code, shown = failure(capsys, fake.url, "--requests", "2")
    assert code == 1 and "no request was completed" in shown


def test_without_usage_chunks_are_counted_with_a_warning(fake: FakeServer, capsys: Captured) -> None:
    fake.usage = False
    assert run(["bench", "serve", fake.url, "--requests", "2", "--output-tokens", "3", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "the server reports no usage in streams" in captured.err
    assert "output tokens" in captured.out and "unknown" in captured.out


def test_the_table_and_the_file(fake: FakeServer, capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    fake.key, fake.statuses = "secret", [200, 200, 429]
    code = run(["bench", "serve", fake.url, "--requests", "3", "--api-key", "secret", "--output", str(file), "--quiet"])
    shown = capsys.readouterr().out
    assert code == 0
    for text in ("fake-model", "8 clients", "2 of 3", "TTFT", "TPOT", "ITL", "end to end", "p90", "429"):
        assert text in shown
    assert "secret" not in shown + file.read_text()
    assert json.loads(file.read_text())["completed"] == 2


def test_a_wrong_key_is_one_clear_line(fake: FakeServer, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.key = "right"
    for model in ((), ("--model", "m")):
        code, shown = failure(capsys, fake.url, "--api-key", "wrong", *model)
        assert code == 3 and "the API key was refused" in shown and "LONGCAT_API_KEY" in shown
    monkeypatch.setenv("LONGCAT_API_KEY", "right")
    assert bench(capsys, fake.url)["completed"] == 6


def test_no_server_is_one_clear_line(capsys: Captured) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        for model in ((), ("--model", "m")):
            code, shown = failure(capsys, url, *model)
            assert code == 3 and "cannot connect" in shown and "is the server running" in shown


@pytest.mark.parametrize(
    ("status", "text"), [(404, "is this the address of an OpenAI API"), (400, "answered with 400")]
)
def test_a_refused_first_request_ends_the_test(fake: FakeServer, capsys: Captured, status: int, text: str) -> None:
    fake.statuses = [status]
    code, shown = failure(capsys, fake.url)
    assert code == 3 and text in shown and f"status {status}" in shown


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--rate", "1", "--concurrency", "2"), "--rate and --concurrency cannot be combined"),
        (("--vocabulary", "9", "--api", "chat"), "cannot be combined with --api chat"),
        (("--vocabulary", "9", "--prompts", "x"), "cannot be combined with --prompts"),
        (("--body", "[1]"), "--body is not a JSON object"),
        (("--body", '{"stream": false}'), "--body must not contain stream"),
    ],
)
def test_what_cannot_be_combined_is_refused(capsys: Captured, options: tuple[str, ...], text: str) -> None:
    code, shown = failure(capsys, "http://127.0.0.1:9", *options)
    assert code == 2 and text in shown


@pytest.mark.parametrize("url", ["http://a:b", "ftp://a", "http://"])
def test_other_addresses_are_refused(capsys: Captured, url: str) -> None:
    code, shown = failure(capsys, url)
    assert code == 2 and url in shown


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1/completions"),
        ("https://a.example/v1/", "https://a.example/v1/completions"),
        ("http://a.example/llm", "http://a.example/llm/v1/completions"),
    ],
)
def test_addresses_with_and_without_the_version(url: str, path: str) -> None:
    assert LoadOptions(url).path == path


@pytest.mark.parametrize(
    ("text", "api", "message"),
    [
        ("", "chat", "the file has no prompts"),
        ("{", "chat", "1: not JSON"),
        ('{"text": "a"}', "chat", 'not an object with "prompt" or "messages"'),
        ('{"messages": []}', "completions", '"messages" are for the chat API'),
        ('{"prompt": [1]}', "chat", '"prompt" is not a text'),
    ],
)
def test_bad_prompt_files_are_refused(tmp_path: Path, text: str, api: Any, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_prompts(LoadOptions("u", api=api), file)
    with pytest.raises(InputError, match="No such file"):
        read_prompts(LoadOptions("u"), tmp_path / "missing")


def test_words_of_a_prompt() -> None:
    assert words_for(100, (8, 19), (40, 83)) == round(40 + 17 / 2)
    assert words_for(1, (8, 19), (40, 83)) == 1
    assert words_for(100, (8, 5), (40, 5)) == 100


def read(*parts: bytes) -> list[dict[str, Any]]:
    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    async def collect() -> list[dict[str, Any]]:
        return [event async for event in read_events(body())]

    return asyncio.run(collect())


def test_events_are_read_across_parts_and_line_ends() -> None:
    assert read(b'data: {"a"', b': 1}\r\n\r\n: ping\ndata:{"b": 2}\n\ndata: [DO', b"NE]\n\nrubbish") == [
        {"a": 1},
        {"b": 2},
    ]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (b"data: [1]\n", "not a JSON object"),
        (b"data: {\n", "not a JSON object"),
        (b"x" * (MAX_EVENT_BYTES + 1), "a line of more than"),
        (b'data: {"a": 1}\n', "ended before"),
    ],
)
def test_what_is_no_event_is_an_error(part: bytes, message: str) -> None:
    with pytest.raises(BrokenStreamError, match=message):
        read(part)
