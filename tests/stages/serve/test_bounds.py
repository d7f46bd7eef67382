"""Requests that must be refused: quickly, in OpenAI's error format, and without affecting the next one."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine

OK = {"model": "tiny", "prompt": "The", "max_tokens": 1}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1:9/x.png"}}


def refuse(client: httpx.Client, path: str, body: Any, *, content: bytes | None = None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    data = json.dumps(body).encode() if content is None else content
    started = time.monotonic()
    response = client.post(path, content=data, headers=headers)
    assert time.monotonic() - started < 2
    assert response.status_code == 400, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert len(response.content) < 2000
    assert client.post("/v1/completions", json=OK).status_code == 200
    return error


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 10**9),
        ("n", 0),
        ("best_of", 10**9),
        ("best_of", 2),
        ("logprobs", 10**6),
        ("max_tokens", 10**12),
        ("max_tokens", 10**6),
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", 3),
        ("temperature", "hot"),
        ("top_p", -0.1),
        ("stop", ["x"] * 100_000),
        ("stop", "x" * 100_000),
        ("stop", [""]),
        ("stop", 3),
        ("stop_token_ids", list(range(1000))),
        ("stop_token_ids", [10**9]),
        ("logit_bias", {str(number): 1 for number in range(1000)}),
        ("logit_bias", {"9999": 1}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 1000}),
        ("seed", 2**70),
        ("prompt", ""),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [-1]),
        ("prompt", [320]),
        ("prompt", [2**63]),
        ("prompt", [[5], ["a"]]),
        ("prompt", [1, "a"]),
        ("prompt", [True]),
        ("prompt", {"text": "a"}),
        ("prompt", ["a"] * 129),
        ("prompt", "\ud800"),
        ("prompt", [5] * 192),
        ("prompt", "word " * 100_000),
        ("echo", "yes"),
        ("min_p", 2),
        ("min_tokens", 5),
        ("allowed_token_ids", []),
        ("allowed_token_ids", [320]),
        ("allowed_token_ids", [True]),
        ("structured_outputs", {}),
        ("structured_outputs", {"regex": "("}),
        ("structured_outputs", {"regex": "a", "choice": ["b"]}),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("suffix", "end"),
        ("model", ["tiny"]),
        ("chat_template", "{{ 1 }}"),
    ],
)
def test_completion_fields_out_of_bounds(client: httpx.Client, field: str, value: Any) -> None:
    refuse(client, "/v1/completions", {**OK, field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", None),
        ("messages", [{"role": "wizard", "content": "Hi"}]),
        ("messages", [{"role": "user"}]),
        ("messages", [{"role": "user", "content": None}]),
        ("messages", [{"role": "user", "content": [IMAGE]}]),
        ("messages", [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]),
        ("messages", [{"role": "user", "content": [{"type": "file", "file": {"file_id": "x"}}]}]),
        ("messages", [{"role": "user", "content": "\udfff"}]),
        ("messages", [{"role": "user", "content": "Hi"}] * 5000),
        ("messages", [{"role": "user", "content": "word " * 100_000}]),
        ("top_logprobs", 2),
        ("top_logprobs", 10**9),
        ("max_completion_tokens", 5),
        ("max_tokens", 0),
        ("chat_template", "{{ ''.__class__.__mro__ }}"),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"enable_thinking": 1}),
        ("chat_template_kwargs", [1]),
        ("reasoning_effort", "extreme"),
        ("tools", [{"type": "function"}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 200),
        ("tool_choice", "required"),
        ("response_format", {"type": "yaml"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {"type": "nothing"}}}),
    ],
)
def test_chat_fields_out_of_bounds(client: httpx.Client, field: str, value: Any) -> None:
    refuse(client, "/v1/chat/completions", {**CHAT, field: value})


def test_context_errors_contain_the_numbers(client: httpx.Client) -> None:
    error = refuse(client, "/v1/completions", {**OK, "prompt": [5] * 192})
    assert error["code"] == "context_length_exceeded"
    assert error["message"] == "the prompt has 192 tokens and 1 were requested, the context holds 192 in all"
    error = refuse(client, "/v1/completions", {**OK, "max_tokens": 192})
    assert "1 tokens and 192 were requested" in error["message"]


def test_unknown_fields_are_named(client: httpx.Client) -> None:
    error = refuse(client, "/v1/completions", {**OK, "tempreature": 1})
    assert error["param"] == "tempreature"
    assert error["code"] == "unknown_field"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"a": NaN}',
        b"\xff\xfe{}",
        b'{"model": "tiny", "model": "tiny"}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"x": ' + b"9" * 10_000 + b"}",
        b"{" + b",".join(b'"k%d":0' % number for number in range(100_000)) + b"}",
        b'{"model":"tiny","prompt":[' + b",".join([b'"a",1'] * 200_000) + b"]}",
        b'{"model":"tiny","messages":[' + b",".join([b"1"] * 500_000) + b"]}",
        b'{"model":"tiny","stop_token_ids":[' + b",".join([b'"a"'] * 500_000) + b"]}",
    ],
)
def test_invalid_bodies(client: httpx.Client, content: bytes) -> None:
    refuse(client, "/v1/completions", None, content=content)
    refuse(client, "/v1/chat/completions", None, content=content)


def test_other_media_types_are_refused(client: httpx.Client) -> None:
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        response = client.post("/v1/completions", content=json.dumps(OK), headers={"Content-Type": media})
        assert response.status_code == 415
        assert "application/json" in response.json()["error"]["message"]


def test_other_models_are_not_found(client: httpx.Client) -> None:
    response = client.post("/v1/completions", json={**OK, "model": "gpt-4"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_large_bodies_are_refused_with_and_without_a_declared_length(serve: Any, engine: InferenceEngine) -> None:
    with serve(engine, max_body_bytes=2048).client() as client:
        headers = {"Content-Type": "application/json"}
        declared = client.post("/v1/completions", content=b" " * 5000, headers=headers)
        assert declared.status_code == 413
        chunked = client.post("/v1/completions", content=(b" " * 1000 for _ in range(5)), headers=headers)
        assert chunked.status_code == 413
        assert chunked.json()["error"]["code"] == "body_too_large"


def test_a_missing_body_times_out(serve: Any, engine: InferenceEngine) -> None:
    import socket

    running = serve(engine, body_seconds=0.2)
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 100\r\n\r\n{"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_the_key_is_required_only_under_v1(serve: Any, engine: InferenceEngine) -> None:
    with serve(engine, api_keys=("secret",)).client() as client:
        assert client.get("/health").status_code == 200
        for given in (None, "Bearer wrong", "secret", "Bearer", "Basic secret", "Bearer secret2", "Bearer secre"):
            headers = {"Authorization": given} if given else {}
            response = client.get("/v1/models", headers=headers)
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert "secret" not in response.text
            assert client.post("/v1/completions", json=OK, headers=headers).status_code == 401
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
