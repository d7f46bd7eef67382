"""Tokenise and detokenise."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine


def test_text_to_tokens_and_back(client: httpx.Client, engine: InferenceEngine) -> None:
    text = "The quick 日本 fox"
    found = client.post("/tokenize", json={"model": "tiny", "prompt": text, "return_token_strs": True}).json()
    assert found["tokens"] == engine.tokenizer.encode(text)
    assert found["count"] == len(found["tokens"])
    assert found["max_model_len"] == 192
    assert found["token_strs"] == [engine.tokenizer.token_name(token) for token in found["tokens"]]
    assert client.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"prompt": text}
    assert client.post("/tokenize", json={"prompt": ""}).json()["tokens"] == []
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}


def test_the_prompt_of_a_chat(client: httpx.Client, engine: InferenceEngine) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes", "refusal": None}]
    found = client.post("/tokenize", json={"messages": messages}).json()
    assert found["tokens"] == engine.tokenizer.encode_chat(
        [{"role": m["role"], "content": m["content"]} for m in messages]
    )
    assert found["token_strs"] is None


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("tokenize", {}),
        ("tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}),
        ("tokenize", {"messages": []}),
        ("tokenize", {"prompt": "a" * 100_000}),
        ("tokenize", {"prompt": "\ud800"}),
        ("tokenize", {"prompt": "a", "chat_template": "{{ 1 }}"}),
        ("detokenize", {}),
        ("detokenize", {"tokens": [320]}),
        ("detokenize", {"tokens": [-1]}),
        ("detokenize", {"tokens": ["a"]}),
        ("detokenize", {"tokens": "a"}),
    ],
)
def test_bad_bodies(client: httpx.Client, route: str, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/" + route, content=json.dumps(body), headers=headers)
    assert answer.status_code == 400, answer.text


def test_another_model_and_a_key(client: httpx.Client, serve: Any, engine: InferenceEngine) -> None:
    assert client.post("/tokenize", json={"model": "other", "prompt": "a"}).status_code == 404
    with serve(engine, api_keys=("k",)).client() as closed:
        for route, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            assert closed.post(route, json=body).status_code == 401
            assert closed.post(route, json=body, headers={"Authorization": "Bearer k"}).status_code == 200


def test_special_tokens_in_a_raw_prompt_are_tokens_unless_asked_otherwise(
    client: httpx.Client, engine: InferenceEngine
) -> None:
    text = "a</longcat_s>b"
    parsed, plain = engine.tokenizer.encode(text, parse_special=True), engine.tokenizer.encode(text)
    assert len(parsed) == 3 < len(plain)
    for fields, expected in (({}, parsed), ({"parse_special": False}, plain), ({"parse_special": None}, parsed)):
        assert client.post("/tokenize", json={"prompt": text, **fields}).json()["tokens"] == expected
        body = {"model": "tiny", "prompt": text, "max_tokens": 1, **fields}
        usage = client.post("/v1/completions", json=body).json()["usage"]
        assert usage["prompt_tokens"] == len(expected)


def test_special_tokens_in_a_chat_stay_text(client: httpx.Client, engine: InferenceEngine) -> None:
    messages = [{"role": "user", "content": "a</longcat_s>b"}]
    body = {"model": "tiny", "messages": messages, "max_tokens": 1}
    usage = client.post("/v1/chat/completions", json=body).json()["usage"]
    ids = engine.tokenizer.encode_chat(messages)
    assert usage["prompt_tokens"] == len(ids)
    assert engine.tokenizer.eos_id not in ids


def test_a_text_begins_with_the_tokens_that_the_tokenizer_adds(
    shared: Any, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = shared.service.engine
    monkeypatch.setitem(engine.tokenizer._tokenizer.__dict__, "begin_ids", (1,))
    text = engine.tokenizer.encode("The sea")
    for fields, expected in (({}, [1, *text]), ({"add_special_tokens": False}, text)):
        answer = client.post("/tokenize", json={"prompt": "The sea", **fields})
        assert answer.json()["tokens"] == expected
        body = {"model": "tiny", "prompt": "The sea", "max_tokens": 1, **fields}
        usage = client.post("/v1/completions", json=body).json()["usage"]
        assert usage["prompt_tokens"] == len(expected)
    refused = client.post(
        "/v1/chat/completions",
        json={"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "add_special_tokens": True},
    )
    assert refused.status_code == 400
