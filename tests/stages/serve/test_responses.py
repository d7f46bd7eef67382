"""The Responses API, by openai-python: what its quick starts call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from longcat.stages.inference.engine import InferenceEngine
from tests.stages.serve.scripted import THINK_END, ScriptedWorker, call_text, scripted

Served = tuple[openai.OpenAI, ScriptedWorker]
IMAGE = {"type": "input_image", "image_url": "http://127.0.0.1:9/"}
TOOL: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": None,
}


@pytest.fixture
def served(engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(InferenceEngine, "max_length", 4096)
    with scripted(engine) as (server, worker), httpx.Client(trust_env=False) as http:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, http_client=http), worker


def prompt_of(worker: ScriptedWorker, engine: InferenceEngine) -> str:
    return engine.tokenizer.literal_text(worker.jobs[-1].prompts[0])


def test_a_text_and_instructions(served: Served, engine: InferenceEngine) -> None:
    client, worker = served
    worker.answers = [["Hel", "lo"]]
    answer = client.responses.create(
        model="tiny", instructions="Be brief.", input="Hi", store=True, metadata={"a": "b"}
    )
    assert (answer.output_text, answer.status, answer.model) == ("Hello", "completed", "tiny")
    assert answer.id.startswith("resp_")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert answer.usage.output_tokens == 2
    assert prompt_of(worker, engine) == "SYSTEM:Be brief. [Round 0] USER:Hi ASSISTANT:"


def test_a_second_turn_sends_the_items_back(served: Served, engine: InferenceEngine) -> None:
    client, worker = served
    worker.answers = [["Hello"]]
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]
    items += client.responses.create(model="tiny", input=items).output
    items.append({"role": "user", "content": "More"})
    client.responses.create(model="tiny", input=items)
    assert prompt_of(worker, engine) == "[Round 0] USER:Hi ASSISTANT:Hello</longcat_s> [Round 1] USER:More ASSISTANT:"


def test_a_stream_accumulates_to_the_whole(served: Served) -> None:
    client, worker = served
    worker.answers = [["Rain", " is", f" wet.{THINK_END}It ", "rains."]]
    with client.responses.stream(model="tiny", input="Hi", reasoning={"effort": "high"}) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [event.type for event in events[:3]] == [
        *("response.created", "response.in_progress", "response.output_item.added")
    ]
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == sorted({event.sequence_number for event in events})
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == final.output_text == "It rains."
    thought: Any = final.output[0]
    assert thought.type == "reasoning"
    assert thought.content[0].text == "Rain is wet."


def test_raw_events_have_their_names(served: Served) -> None:
    client, worker = served
    worker.answers = [["a", "b"]]
    raw = httpx.post(f"{client.base_url}responses", json={"model": "tiny", "input": "Hi", "stream": True}).text
    blocks = [block.split("\n") for block in raw.strip().split("\n\n")]
    for name, data in blocks:
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]
    assert "[DONE]" not in raw


def test_calls_and_their_outputs(served: Served, engine: InferenceEngine) -> None:
    client, worker = served
    worker.answers = [[call_text("weather", '{"city": "Bern"}')], ["Rain."]]
    items: list[Any] = [{"role": "user", "content": "Weather?"}]
    answer = client.responses.create(model="tiny", input=items, tools=[TOOL], tool_choice="required")
    (call,) = answer.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("weather", {"city": "Bern"})
    assert worker.jobs[-1].params.grammar is not None
    items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}]
    assert client.responses.create(model="tiny", input=items, tools=[TOOL]).output_text == "Rain."
    assert '{"city": "Bern"}}\n</longcat_tool_call></longcat_s> TOOL:rain ASSISTANT:' in prompt_of(worker, engine)
    named: Any = {"type": "function", "name": "weather"}
    client.responses.create(model="tiny", input="Weather?", tools=[TOOL], tool_choice=named)
    assert worker.jobs[-1].params.grammar is not None
    worker.answers = [[call_text("weather", '{"city": "Bern"}')]]
    with client.responses.stream(model="tiny", input="Weather?", tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_response().output[0]
    assert "response.function_call_arguments.delta" in kinds
    assert json.loads(final.arguments) == {"city": "Bern"}


def test_a_format(served: Served) -> None:
    class City(BaseModel):
        name: str

    client, worker = served
    worker.answers = [['{"name": ', '"Bern"}']]
    answer = client.responses.parse(model="tiny", input="Hi", text_format=City)
    assert answer.output_parsed == City(name="Bern")
    assert worker.jobs[-1].params.grammar is not None


def test_the_items_of_one_answer_are_one_message(served: Served, engine: InferenceEngine) -> None:
    client, worker = served
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items: list[Any] = [
        {"role": "user", "content": "Hi"},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "t"}]},
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Yes"}]},
        call,
        {**call, "call_id": "d"},
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "1"}]},
    ]
    client.responses.create(model="tiny", input=items)
    prompt = prompt_of(worker, engine)
    assert prompt.count("ASSISTANT:") == 2
    assert prompt.count("<longcat_tool_call>") == 2
    assert "ASSISTANT:Yes<longcat_tool_call>" in prompt


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id is not supported: nothing is stored"),
        ({"conversation": "c"}, "nothing is stored"),
        ({"background": True}, "nothing is stored"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "functions are"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools"),
        ({"tool_choice": "required"}, "needs tools"),
        ({"input": []}, "1 to 1024 items"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "item_reference"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://127.0.0.1:9/"}]}]},
            "text",
        ),
        ({"input": [{"role": "wizard", "content": "a"}]}, "roles"),
        ({"input": [{"type": "function_call", "name": "f"}]}, "call_id"),
        ({"input": [3]}, "not an object"),
        ({"input": [{"role": {}, "content": "a"}]}, "roles"),
        ({"input": [{"type": [], "content": "a"}]}, "type"),
        ({"input": [{"role": "user", "content": [{"type": {}}]}]}, "text only"),
        ({"n": 2}, "n"),
        ({"text": {"format": {"type": "yaml"}}}, "yaml"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**6}, "context"),
        ({"instructions": 3}, "instructions"),
        ({"made_up": 1}, "made_up"),
    ],
)
def test_what_cannot_be_done_is_refused(served: Served, fields: dict[str, Any], told: str) -> None:
    client, _ = served
    answer = httpx.post(f"{client.base_url}responses", json={"model": "tiny", "input": "Hi", **fields})
    assert answer.status_code == 400, answer.text
    assert told in answer.json()["error"]["message"]


def test_the_real_engine_answers_and_is_cut(client: httpx.Client) -> None:
    body = {"model": "tiny", "input": "Hi", "max_output_tokens": 3, "temperature": 0, "ignore_eos": True}
    answer = client.post("/v1/responses", json=body).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3, "temperature": 0}
    same = client.post("/v1/chat/completions", json={**chat, "ignore_eos": True}).json()
    assert answer["output"][0]["content"][0]["text"] == same["choices"][0]["message"]["content"]
