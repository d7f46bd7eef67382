"""Tool calls, thoughts and formats of chats, through openai-python where it has the field."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from longcat.stages.formats.special_tokens import MARKUP
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.answer_stream import ThoughtTokens
from tests.stages.serve.scripted import THINK, THINK_END, ScriptedWorker, call_text, scripted

ASK: Any = [{"role": "user", "content": "Weather?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather now.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, None]}}, "required": ["a"], "additionalProperties": False}


def pieces(text: str) -> list[str]:
    return [text[at : at + 3] for at in range(0, len(text), 3)]


@pytest.fixture
def served(engine: InferenceEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[openai.OpenAI, ScriptedWorker]]:
    # Nothing is computed, so that there is room for the description of a tool.
    monkeypatch.setattr(InferenceEngine, "max_length", 4096)
    with scripted(engine) as (server, worker), httpx.Client(trust_env=False) as http:
        yield openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0, http_client=http), worker


def test_calls_and_their_results(served: tuple[openai.OpenAI, ScriptedWorker], engine: InferenceEngine) -> None:
    client, worker = served
    worker.answers = [pieces("Let me see. " + call_text("weather", '{"city": "Zürich"}'))]
    first = client.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL]).choices[0]
    assert first.finish_reason == "tool_calls"
    assert first.message.content == "Let me see. "
    (call,) = first.message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Zürich"})
    assert call.id.startswith("call_")
    offered = engine.tokenizer.encode_chat(ASK, [TOOL], enable_thinking=False)
    assert worker.jobs[0].prompts == [offered]
    assert worker.jobs[0].params.grammar is None

    worker.answers = [["It rains."]]
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    messages: list[Any] = [*ASK, first.message, result]
    second = client.chat.completions.create(model="tiny", messages=messages, tools=[TOOL]).choices[0]
    assert (second.message.content, second.finish_reason, second.message.tool_calls) == ("It rains.", "stop", None)
    prompt = engine.tokenizer.literal_text(worker.jobs[1].prompts[0])
    assert '"arguments": {"city": "Zürich"}}\n</longcat_tool_call></longcat_s> TOOL:rain ASSISTANT:' in prompt


def test_streamed_calls(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    text = call_text("weather", '{"city": "Bern"}') + call_text("weather", '{"city": "Rom"}')
    worker.answers = [pieces(text)]
    with client.chat.completions.stream(model="tiny", messages=ASK, tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.finish_reason == "tool_calls"
    calls = final.message.tool_calls or []
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Bern"}, {"city": "Rom"}]
    assert len({call.id for call in calls}) == 2
    worker.answers = [pieces(text)]
    chunks = client.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL], stream=True)
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    begun = [delta for delta in deltas if delta.id]
    assert [(delta.index, delta.type, delta.function and delta.function.arguments) for delta in begun] == [
        *((0, "function", ""), (1, "function", ""))
    ]
    assert all(delta.function and delta.function.name is None for delta in deltas if not delta.id)


def test_the_choice_of_a_tool_is_a_grammar(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    named: Any = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        client.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL], tool_choice=choice)
        assert worker.jobs[-1].params.grammar is not None
    tagged = call_text("weather", "{}")
    worker.answers = [[tagged]]
    plain = client.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL], tool_choice="none").choices[0]
    assert plain.message.tool_calls is None
    assert "<longcat_tool_call>" in (plain.message.content or "")
    with pytest.raises(openai.BadRequestError, match="not among the tools"):
        other: Any = {"type": "function", "function": {"name": "other"}}
        client.chat.completions.create(model="tiny", messages=ASK, tools=[TOOL], tool_choice=other)


def test_thoughts_are_apart(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    for fields in ({"reasoning_effort": "high"}, {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}):
        worker.answers = [pieces(f"Rain is wet.{THINK_END}It rains.")]
        message = client.chat.completions.create(model="tiny", messages=ASK, **fields).choices[0].message
        assert message.content == "It rains."
        assert message.model_dump()["reasoning_content"] == "Rain is wet."
    worker.answers = [pieces(f"{THINK}Hm.{THINK_END}Yes.")]
    chunks = list(client.chat.completions.create(model="tiny", messages=ASK, stream=True))
    deltas = [chunk.choices[0].delta.model_dump(exclude_none=True) for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "Hm."
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes."


def test_formats_become_grammars_and_nulls_in_a_schema_stay(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": None}}
    client.chat.completions.create(model="tiny", messages=ASK, response_format=wanted)
    grammar = worker.jobs[-1].params.grammar
    assert grammar is not None
    ids = worker.jobs[-1].params
    assert ids.marked_tags
    structured = [{"regex": "[ab]+"}, {"choice": ["yes", "no"]}, {"grammar": 'start: "a"'}, {"json": SCHEMA}]
    for value in structured:
        body: Any = {"structured_outputs": {**value, "disable_any_whitespace": None}}
        client.chat.completions.create(model="tiny", messages=ASK, extra_body=body)
        assert worker.jobs[-1].params.grammar is not None
        client.completions.create(model="tiny", prompt="a", extra_body=body)
        assert worker.jobs[-1].params.grammar is not None
    client.chat.completions.create(model="tiny", messages=ASK, response_format={"type": "text"})
    assert worker.jobs[-1].params.grammar is None


def test_a_bad_grammar_is_refused_and_the_next_request_answered(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, _ = served
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep}
    bad: list[Any] = [
        {"structured_outputs": {"regex": "(" * 100}},
        {"structured_outputs": {"grammar": "start: ["}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "nothing"}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": deep}}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/$defs/none"}}}},
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
    ]
    for body in bad:
        with pytest.raises(openai.BadRequestError) as raised:
            client.chat.completions.create(model="tiny", messages=ASK, extra_body=body)
        assert str(raised.value.param).startswith(("structured_outputs", "response_format"))
        assert client.chat.completions.create(model="tiny", messages=ASK).choices[0].message.content == "ok"


def test_parameters_reach_the_engine(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    extra = {"min_p": 0.1, "min_tokens": 2, "allowed_token_ids": [5, 6], "return_expert_counts": True}
    client.chat.completions.create(model="tiny", messages=ASK, max_tokens=9, extra_body=extra)
    params = worker.jobs[-1].params
    assert (params.min_p, params.min_tokens, params.allowed_token_ids) == (0.1, 2, (5, 6))
    assert params.expert_counts


def test_tokens_from_the_cache_are_counted(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    worker.cached = 3
    usage = client.chat.completions.create(model="tiny", messages=ASK).usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert usage.prompt_tokens_details.cached_tokens == 3


def test_drafts_are_counted_and_experts_shown_if_asked_for(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    worker.answers = [["a", "", "b"], ["a", "", "b"], ["a", "", "b"]]
    plain = client.chat.completions.create(model="tiny", messages=ASK)
    assert plain.usage is not None
    details = plain.usage.completion_tokens_details
    assert details is not None
    assert (details.accepted_prediction_tokens, details.rejected_prediction_tokens) == (3, 3)
    assert "expert_counts" not in plain.choices[0].model_dump()
    asked = {"return_expert_counts": True}
    whole = client.chat.completions.create(model="tiny", messages=ASK, extra_body=asked)
    assert whole.choices[0].model_dump()["expert_counts"] == [[1, 2]] * 3
    stream = client.completions.create(model="tiny", prompt="a", stream=True, extra_body=asked)
    found = [chunk.choices[0].model_dump()["expert_counts"] for chunk in stream]
    assert found == [[[1, 2]]] * 3


def test_clients_have_names_for_fairness(served: tuple[openai.OpenAI, ScriptedWorker]) -> None:
    client, worker = served
    client.chat.completions.create(model="tiny", messages=ASK)
    assert worker.jobs[-1].key == "127.0.0.1"


def test_tags_of_the_model_are_told_from_text(client: httpx.Client, engine: InferenceEngine) -> None:
    """With the real engine: the tag of a thought is no content."""
    (think,) = engine.tokenizer.encode("<longcat_think>", parse_special=True)
    body = {"model": "tiny", "messages": ASK, "max_tokens": 1, "allowed_token_ids": [think]}
    message = client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "", "refusal": None}
    raw = {"model": "tiny", "prompt": "a", "max_tokens": 1, "allowed_token_ids": [think]}
    assert client.post("/v1/completions", json=raw).json()["choices"][0]["text"] == "<longcat_think>"


def test_tokens_of_thoughts_are_counted(client: httpx.Client, engine: InferenceEngine) -> None:
    think, end = (engine.tokenizer.encode(tag, parse_special=True)[0] for tag in MARKUP[2:])
    assert engine.tokenizer.thought_tags == (think, end)
    thoughts = ThoughtTokens(engine.tokenizer, inside=False)
    assert [thoughts.add(ids) for ids in ([20, think, 21], [22], [end, 23], [end, think])] == [2, 1, 1, 1]
    assert ThoughtTokens(engine.tokenizer, inside=True).add([20, end, 21]) == 2
    chat = {"model": "tiny", "messages": ASK, "max_tokens": 3, "allowed_token_ids": [think]}
    usage = client.post("/v1/chat/completions", json=chat).json()["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == usage["completion_tokens"] == 3


def test_the_engine_follows_a_schema(client: httpx.Client) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", None]}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": {**schema, "additionalProperties": False}}}
    body = {"model": "tiny", "messages": ASK, "max_tokens": 60, "response_format": wanted}
    choice = client.post("/v1/chat/completions", json=body).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert json.loads(choice["message"]["content"]) in ({"a": "x"}, {"a": None})
