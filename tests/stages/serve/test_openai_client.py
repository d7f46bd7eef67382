"""The official OpenAI client, and the server as a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.serve.listen import bind
from longcat.stages.serve.server import Door, serve

MESSAGES: Any = [{"role": "user", "content": "Hello"}]
SCRIPT = """
import functools, sys
from pathlib import Path
from longcat.stages.serve.server import Door, serve
ready = functools.partial(print, flush=True)
serve(Path(sys.argv[1]), Door(port=0), values={"model_name": "tiny"}, device="cpu", threads=1, on_ready=ready)
"""


@pytest.fixture
def openai_client(shared: Any) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False)
    with openai.OpenAI(base_url=shared.url + "/v1", api_key="unused", max_retries=0, http_client=http) as client:
        yield client


def test_models(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").id == "tiny"


def test_completions(openai_client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "prompt": "The quick", "max_tokens": 10, "temperature": 0, "logprobs": 2}
    whole = openai_client.completions.create(**fields)
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 10
    stream = openai_client.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.tokens


def test_chat(openai_client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_completion_tokens": 10, "temperature": 0}
    whole = openai_client.chat.completions.create(**fields, logprobs=True, top_logprobs=1)
    chunks = list(openai_client.chat.completions.create(**fields, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.choices[0].logprobs is not None
    assert whole.choices[0].logprobs.content
    assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 1


def test_errors(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="context holds 192") as raised:
        openai_client.completions.create(model="tiny", prompt=[5] * 300)
    assert raised.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        openai_client.chat.completions.create(model="other", messages=MESSAGES)


def test_leaving_a_stream(openai_client: openai.OpenAI, shared: Any) -> None:
    stream = openai_client.completions.create(model="tiny", prompt="The", max_tokens=150, stream=True)
    next(iter(stream))
    stream.close()
    assert openai_client.completions.create(model="tiny", prompt="The", max_tokens=1).choices


def test_sigterm_ends_the_process_with_success(checkpoint: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LONGCAT_API_KEY": "from-environment"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(checkpoint)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(__file__).parents[3],
    )
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
            assert client.get("/health").json() == {"status": "ok"}
            assert client.get("/v1/models").status_code == 401
            headers = {"Authorization": "Bearer from-environment"}
            body = {"model": "tiny", "prompt": "The", "max_tokens": 120, "stream": True, "ignore_eos": True}
            with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
                lines = answer.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                # The running stream is completed.
                assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(20) == 0
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def test_a_used_port_is_an_error_before_the_checkpoint_is_read(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as listener:
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match="cannot listen"):
            serve(tmp_path / "nowhere", Door(port=port))
