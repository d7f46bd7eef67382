"""A second turn: what clients send back of an answer is read; nulls mean that a field is absent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.messages import Message

FIRST: dict[str, Any] = {"role": "user", "content": "Hello"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
NOTHING = [
    {"refusal": None},
    {"tool_calls": None, "function_call": None, "audio": None, "annotations": [], "reasoning_content": None},
    {"tool_calls": [], "name": None, "provider_specific_fields": {"refusal": None}, "thinking_blocks": None},
    {"parsed": None, "index": 0, "id": "chatcmpl-1", "reasoning": None, "reasoning_details": [{"type": "x"}]},
    {"content": [{"type": "text", "text": "yes", "annotations": None, "cache_control": {"type": "ephemeral"}}]},
    {"content": [{"type": "text", "text": "yes", "refusal": None}], "images": [], "usage": {"total_tokens": 3}},
]


def ask(client: httpx.Client, messages: list[dict[str, Any]]) -> httpx.Response:
    body = {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0}
    return client.post("/v1/chat/completions", json=body)


@pytest.mark.parametrize("fields", NOTHING, ids=str)
def test_fields_of_an_answer_that_say_nothing(client: httpx.Client, fields: dict[str, Any]) -> None:
    plain = ask(client, [FIRST, {"role": "assistant", "content": "yes"}, FIRST])
    full = ask(client, [FIRST, {"role": "assistant", "content": "yes", **fields}, FIRST])
    assert full.status_code == 200, full.text
    assert full.json()["choices"] == plain.json()["choices"]
    assert full.json()["usage"]["total_tokens"] == plain.json()["usage"]["total_tokens"]


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
def test_nulls_in_messages_of_every_role(client: httpx.Client, role: str) -> None:
    nulls = dict.fromkeys(("name", "refusal", "tool_calls", "tool_call_id", "audio", "made_up"))
    answer = ask(client, [FIRST, {"role": role, "content": "a", "cache_control": {"type": "ephemeral"}, **nulls}])
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"content": None, "refusal": "No."}, {"content": "No."}),
        ({"content": [{"type": "refusal", "refusal": "No."}]}, {"content": "No."}),
        ({"content": None, "tool_calls": [{**CALL, "index": 0}]}, {"content": "", "tool_calls": [CALL]}),
        ({"content": [], "tool_calls": [CALL]}, {"content": "", "tool_calls": [CALL]}),
        (
            {"content": None, "function_call": {"name": "f", "arguments": ""}},
            {"content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        ),
        ({"content": "a", "reasoning_content": "r"}, {"content": "a", "reasoning_content": "r"}),
        ({"content": "a", "reasoning": "r"}, {"content": "a", "reasoning_content": "r"}),
    ],
)
def test_fields_of_an_answer_that_say_something_reach_the_template(
    message: dict[str, Any], expected: dict[str, Any]
) -> None:
    found = Message.model_validate({"role": "assistant", **message}).for_template()
    assert found == {"role": "assistant", **expected}


def test_calls_and_their_results_are_in_the_prompt(client: httpx.Client, engine: InferenceEngine) -> None:
    messages = [FIRST, {"role": "assistant", "content": None, "tool_calls": [CALL]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "42"})
    answer = ask(client, messages)
    assert answer.status_code == 200, answer.text
    expected = engine.tokenizer.encode_chat([FIRST, {**messages[1], "content": ""}, messages[2]])
    assert answer.json()["usage"]["prompt_tokens"] == len(expected)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ({"role": "assistant", "content": "a", "audio": {"id": "x"}}, "audio"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"type": "custom", "custom": {}}]}, "tool_calls.0"),
        (
            {"role": "assistant", "content": "a", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]},
            "arguments",
        ),
        ({"role": "user", "content": "a", "images": ["x"]}, "images"),
        ({"role": "user", "content": None}, "needs content"),
        ({"role": "tool"}, "needs content"),
        ({"role": "user", "content": "a", "tool_calls": [CALL]}, "role assistant"),
        ({"role": "user", "content": [{"type": "text", "text": "a", "image": "x"}]}, "text part"),
    ],
)
def test_what_the_model_could_not_read_is_refused(client: httpx.Client, message: dict[str, Any], told: str) -> None:
    answer = ask(client, [FIRST, message])
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert told in error["message"] + str(error["param"])


@pytest.fixture
def chat(shared: Any) -> Iterator[openai.OpenAI]:
    http = httpx.Client(trust_env=False)
    with openai.OpenAI(base_url=shared.url + "/v1", api_key="unused", max_retries=0, http_client=http) as client:
        yield client


def test_openai_sends_its_own_message_back(chat: openai.OpenAI) -> None:
    messages: list[Any] = [FIRST]
    for _ in range(3):
        answer = chat.chat.completions.create(model="tiny", messages=messages, max_tokens=5)
        messages += [answer.choices[0].message, FIRST]
    assert answer.usage is not None
    dumped = [messages[0], messages[1].model_dump(), messages[1].to_dict(), FIRST]
    assert chat.chat.completions.create(model="tiny", messages=dumped, max_tokens=5).choices


def test_openai_sends_a_streamed_message_back(chat: openai.OpenAI) -> None:
    messages: list[Any] = [FIRST]
    for _ in range(2):
        with chat.chat.completions.stream(model="tiny", messages=messages, max_tokens=5) as stream:
            for _ in stream:
                pass
            message = stream.current_completion_snapshot.choices[0].message
        messages += [message, FIRST]
    assert chat.chat.completions.create(model="tiny", messages=messages, max_tokens=5).choices
