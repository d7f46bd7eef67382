"""The HTTP interface over real connections."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.sampling import SamplingParams

PROMPT = "The quick brown fox"
GREEDY = {"model": "tiny", "temperature": 0, "ignore_eos": True}


def complete(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    response = client.post("/v1/completions", json={**GREEDY, "prompt": PROMPT, "max_tokens": 12, **fields})
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def chat(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    body = {**GREEDY, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 12, **fields}
    response = client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    result: dict[str, Any] = response.json()
    return result


def events(client: httpx.Client, path: str, **fields: Any) -> list[dict[str, Any]]:
    with client.stream("POST", path, json={**GREEDY, "max_tokens": 12, "stream": True, **fields}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines.pop() == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_completion_equals_the_text_of_the_engine(client: httpx.Client, engine: InferenceEngine) -> None:
    answer = complete(client)
    ids = engine.tokenizer.encode(PROMPT)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    expected = "".join(delta.text for delta in engine.generate(ids, params))
    assert answer["choices"] == [{"index": 0, "text": expected, "logprobs": None, "finish_reason": "length"}]
    usage = {"prompt_tokens": len(ids), "completion_tokens": 12, "total_tokens": len(ids) + 12}
    assert {name: answer["usage"][name] for name in usage} == usage
    assert answer["object"] == "text_completion"


@pytest.mark.parametrize("fields", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 1, "n": 2}])
def test_streamed_completions_equal_the_whole(client: httpx.Client, fields: dict[str, Any]) -> None:
    seeded = {"temperature": 1, "seed": 5, **fields}
    whole = complete(client, **seeded)
    streamed = events(client, "/v1/completions", prompt=PROMPT, stream_options={"include_usage": True}, **seeded)
    assert streamed[-1]["choices"] == []
    assert streamed[-1]["usage"] == whole["usage"]
    assert all(event["usage"] is None for event in streamed[:-1])
    for choice in whole["choices"]:
        parts = [part for event in streamed for part in event["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        if choice["logprobs"]:
            for key, values in choice["logprobs"].items():
                assert [value for part in parts for value in part["logprobs"][key]] == values


def test_streamed_chat_equals_the_whole(client: httpx.Client) -> None:
    fields: dict[str, Any] = {"n": 2, "temperature": 1, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = chat(client, **fields)
    messages = [{"role": "user", "content": "Hello"}]
    streamed = events(client, "/v1/chat/completions", messages=messages, **fields)
    assert all("usage" not in event for event in streamed)
    for choice in whole["choices"]:
        parts = [part for event in streamed for part in event["choices"] if part["index"] == choice["index"]]
        assert parts[0]["delta"] == {"role": "assistant", "content": ""}
        assert parts[-1]["delta"] == {}
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        tokens = [token for part in parts if part["logprobs"] for token in part["logprobs"]["content"]]
        assert [token["bytes"] for token in tokens] == [token["bytes"] for token in choice["logprobs"]["content"]]
        # The second request finds its prompt in the cache, which may change the last bits.
        logprobs = [token["logprob"] for token in choice["logprobs"]["content"]]
        assert [token["logprob"] for token in tokens] == pytest.approx(logprobs, abs=1e-4)
    first = whole["choices"][0]["logprobs"]["content"][0]
    assert len(first["top_logprobs"]) == 2
    assert bytes(first["bytes"]).decode("utf-8", "replace") == first["token"]


def test_chat_uses_the_template(client: httpx.Client, engine: InferenceEngine) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    ids = engine.tokenizer.encode_chat(messages)
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    expected = "".join(delta.text for delta in engine.generate(ids, params))
    assert chat(client, messages=messages)["choices"][0]["message"]["content"] == expected
    parts = [
        messages[0],
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]},
    ]
    assert chat(client, messages=parts)["choices"][0]["message"]["content"] == expected
    assert chat(client, messages=messages)["usage"]["prompt_tokens"] == len(ids)


def test_log_likelihoods_as_requested_by_evaluation_harnesses(client: httpx.Client, engine: InferenceEngine) -> None:
    """Batches of token ids, echoed with legacy log-probabilities and one token more, as lm-evaluation-harness does."""
    context, continuation = engine.tokenizer.encode("The quick brown"), engine.tokenizer.encode(" fox jumps")
    prompts = [context + continuation, context + engine.tokenizer.encode(" dog")]
    answer = complete(client, prompt=prompts, max_tokens=1, echo=True, logprobs=1)
    for choice, prompt in zip(answer["choices"], prompts, strict=True):
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(prompt) + 1
        assert found["token_logprobs"][0] is None
        assert found["top_logprobs"][0] is None
        scores = engine.score(prompt)
        assert found["token_logprobs"][1:-1] == pytest.approx([score.logprob for score in scores[1:]], abs=1e-4)
        assert found["tokens"][:-1] == [engine.tokenizer.token_name(token) for token in prompt]
        for token, logprob, top in list(
            zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True)
        )[1:]:
            assert top[token] == logprob
            assert logprob <= max(top.values())
        for name, offset in zip(found["tokens"], found["text_offset"], strict=True):
            if not name.startswith("bytes:") and name not in ("</longcat_s>",):
                assert choice["text"][offset:].startswith(name)


def test_echo_and_echo_without_new_tokens(client: httpx.Client) -> None:
    plain = complete(client)["choices"][0]["text"]
    assert complete(client, echo=True)["choices"][0]["text"] == PROMPT + plain
    only = complete(client, echo=True, max_tokens=0, logprobs=0)
    assert only["choices"][0]["text"] == PROMPT
    assert only["usage"]["completion_tokens"] == 0
    assert len(only["choices"][0]["logprobs"]["tokens"]) == only["usage"]["prompt_tokens"]


def test_choices_of_several_prompts_are_numbered_by_prompt(client: httpx.Client) -> None:
    answer = complete(client, prompt=[PROMPT, "def add"], n=2, temperature=1, seed=4)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    alone = complete(client, prompt="def add", n=2, temperature=1, seed=4)
    assert [choice["text"] for choice in alone["choices"]] == [choice["text"] for choice in answer["choices"][2:]]


def test_stop_strings_are_not_shown(client: httpx.Client) -> None:
    whole = complete(client, max_tokens=40)["choices"][0]["text"]
    stop = whole[10:12]
    answer = complete(client, max_tokens=40, stop=stop)["choices"][0]
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    streamed = events(client, "/v1/completions", prompt=PROMPT, **{"max_tokens": 40, "stop": [stop, "\0"]})
    assert "".join(event["choices"][0]["text"] for event in streamed) == answer["text"]


def test_null_means_the_default(client: httpx.Client) -> None:
    nulls = dict.fromkeys(("n", "stop", "logprobs", "stream", "top_p", "seed", "best_of", "user", "logit_bias"))
    assert complete(client, **nulls)["choices"] == complete(client)["choices"]
    assert complete(client, max_tokens=None)["usage"]["completion_tokens"] == 16


def test_request_id_is_echoed_or_generated(client: httpx.Client) -> None:
    assert client.get("/health", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(client.get("/health").headers["x-request-id"]) == 32
    assert client.get("/health", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"] != "a b\tc"
    assert client.post("/v1/completions", headers={"X-Request-Id": "bad"}).headers["x-request-id"] == "bad"


def test_models(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["max_model_len"]) == ("tiny", "model", 192)
    assert client.get("/v1/models/tiny").json() == model
    missing = client.get("/v1/models/other")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


def test_metrics_count(client: httpx.Client) -> None:
    def value(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    generated, prompts = value("longcat_generated_tokens_total"), value("longcat_prompt_tokens_total")
    count = value('longcat_http_requests_total{route="/v1/completions",status="200"}')
    answer = complete(client)
    assert value("longcat_generated_tokens_total") == generated + 12
    assert value("longcat_prompt_tokens_total") == prompts + answer["usage"]["prompt_tokens"]
    assert value('longcat_http_requests_total{route="/v1/completions",status="200"}') == count + 1
    assert value("longcat_request_seconds_count") > 0
    assert value('longcat_first_token_seconds_bucket{le="+Inf"}') == value("longcat_first_token_seconds_count")
    assert client.get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_unknown_paths_make_one_series(client: httpx.Client) -> None:
    for path in ("/nope", "/nope/2"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert "nope" not in client.get("/metrics").text


def test_openapi_describes_the_bodies(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    schema = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["model", "messages"]
    assert "$ref" not in json.dumps(schema)


def test_limits_are_settings(serve: Any, engine: InferenceEngine) -> None:
    with serve(engine, limits={"choices": 20, "prompts": 1, "top_logprobs": 30, "messages": 1}).client() as client:
        body = {**GREEDY, "prompt": PROMPT, "max_tokens": 1, "n": 20, "logprobs": 30}
        assert len(client.post("/v1/completions", json=body).json()["choices"]) == 20
        assert client.post("/v1/completions", json={**body, "n": 21}).status_code == 400
        assert client.post("/v1/completions", json={**body, "prompt": ["a", "b"]}).status_code == 400
        said = [{"role": "user", "content": "a"}] * 2
        assert client.post("/v1/chat/completions", json={**GREEDY, "messages": said}).status_code == 400
