"""Fields of other servers: ignored if they ask nothing of the answer, otherwise refused by name."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from longcat.stages.serve.protocol import NOT_OURS

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
COMPLETION = {"model": "tiny", "prompt": "The", "max_tokens": 3, "temperature": 0}
ROUTES = {"/v1/chat/completions": CHAT, "/v1/completions": COMPLETION}
ASKS_NOTHING = [
    {"metadata": {"run": "1"}, "store": True, "user": "u", "safety_identifier": "s", "service_tier": "flex"},
    {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "verbosity": "low", "request_id": "r"},
    {"top_k": -1, "suffix": "", "parallel_tool_calls": False, "tools": [], "tool_choice": "auto"},
    {"modalities": ["text"], "response_format": {"type": "text"}, "audio": None, "prediction": {"type": "content"}},
    {"stream_options": {"include_usage": True}},
    {"stream_options": {"include_obfuscation": False, "made_up": [1], "include_usage": None}},
    {"skip_special_tokens": True, "use_beam_search": False, "length_penalty": 1.0, "add_special_tokens": False},
    dict.fromkeys(
        ("tools", "n", "stop", "seed", "stream", "stream_options", "response_format", "made_up", "logit_bias")
    ),
]
CHANGES_THE_ANSWER = [
    *({"suffix": "x"}, {"modalities": ["text", "audio"]}, {"audio": {"voice": "a"}}, {"web_search_options": {}}),
    *({"use_beam_search": True}, {"length_penalty": 1.5}, {"skip_special_tokens": False}, {"priority": 1}),
    *({"use_beam_search": 1}, {"length_penalty": True}, {"functions": [{"name": "f"}]}, {"mirostat": 2}),
    *({"prompt_logprobs": 1}, {"chat_template": "{{ 1 }}"}, {"top_k": -2}, {"top_k": True}, {"made_up": False}),
]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fields", ASKS_NOTHING, ids=json.dumps)
def test_what_asks_nothing_of_the_answer_is_ignored(client: httpx.Client, route: str, fields: dict[str, Any]) -> None:
    plain, answer = client.post(route, json=ROUTES[route]), client.post(route, json={**ROUTES[route], **fields})
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"] == plain.json()["choices"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("fields", CHANGES_THE_ANSWER, ids=json.dumps)
def test_what_would_change_the_answer_is_refused_by_name(
    client: httpx.Client, route: str, fields: dict[str, Any]
) -> None:
    answer = client.post(route, json={**ROUTES[route], **fields})
    assert answer.status_code == 400
    (name,) = fields
    error = answer.json()["error"]
    assert error["param"] == name
    assert name in error["message"]
    if name in NOT_OURS:
        assert error["message"].startswith(f"{name} is not supported: ")


@pytest.mark.parametrize("route", ROUTES)
def test_usage_on_every_chunk(client: httpx.Client, route: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = {**ROUTES[route], "ignore_eos": True, "stream": True, "stream_options": options}
    lines = client.post(route, json=body).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 3)
    assert all(chunk["usage"]["prompt_tokens"] == chunks[0]["usage"]["prompt_tokens"] > 0 for chunk in chunks)
