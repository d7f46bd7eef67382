"""What an operator sees: metrics, lines of JSON, comments in quiet streams, and other web pages."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.snapshot import EngineSnapshot
from longcat.stages.serve.metrics import ServerMetrics
from tests.stages.serve.processes import serving

BODY = {"model": "tiny", "prompt": "The secret", "max_tokens": 3, "temperature": 0, "ignore_eos": True}


def test_counts_of_the_engine_are_metrics() -> None:
    class Engine:
        def snapshot(self) -> EngineSnapshot:
            return EngineSnapshot(1, 2, 10, 5, 100, 40, 3, (8, 4), (6, 1))

    text = ServerMetrics(Engine()).render().decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("longcat_"))
    expected = {
        **{"longcat_requests_waiting": "1.0", "longcat_requests_running": "2.0", "longcat_cache_pages": "10.0"},
        **{"longcat_cache_pages_used": "5.0", "longcat_prefix_queried_tokens_total": "100.0"},
        **{"longcat_prefix_hit_tokens_total": "40.0", "longcat_preemptions_total": "3.0"},
        **{'longcat_draft_tokens_total{position="0"}': "8.0", 'longcat_draft_tokens_total{position="1"}': "4.0"},
        **{'longcat_draft_accepted_tokens_total{position="1"}': "1.0"},
    }
    assert {name: found[name] for name in expected} == expected


def test_times_of_tokens_are_metrics(serve: Any, engine: InferenceEngine) -> None:
    with serve(engine).client() as client:
        assert client.post("/v1/completions", json=BODY).status_code == 200
        text = client.get("/metrics").text
    assert "longcat_first_token_seconds_count 1.0" in text
    assert "longcat_token_seconds_count 1.0" in text


def test_each_request_is_a_line_of_json_without_texts(
    serve: Any, engine: InferenceEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(engine, log_requests=True, api_keys=("key",)).client() as client:
        headers = {"Authorization": "Bearer key", "X-Request-Id": "r1"}
        client.post("/v1/completions", json=BODY, headers=headers)
        client.post("/v1/completions", json={**BODY, "stream": True}, headers=headers)
        client.post("/v1/completions", json={**BODY, "n": -1}, headers=headers)
        client.get("/v1/models?a=secret")

    def lines_of() -> list[dict[str, Any]]:
        return [json.loads(record.getMessage()) for record in caplog.records if record.name.endswith(".requests")]

    # A line follows the answer.
    deadline = time.monotonic() + 10
    while len(lines_of()) < 4:
        assert time.monotonic() < deadline
    lines = lines_of()
    assert [(line["status"], line["error"]) for line in lines] == [
        *((200, None), (200, None), (400, "invalid_value"), (401, "invalid_api_key"))
    ]
    first = lines[0]
    assert first["id"] == "r1"
    assert first["route"] == "/v1/completions"
    assert (first["completion_tokens"], first["finish_reasons"], first["stream"]) == (3, ["length"], False)
    assert lines[1]["stream"] is True
    assert 0 < first["first_token_seconds"] <= first["seconds"]
    assert first["client"] == lines[1]["client"] != "key"
    assert "secret" not in caplog.text
    assert "prompt_tokens" not in lines[2]


def test_lines_are_written_with_quiet(checkpoint: Path) -> None:
    with serving(checkpoint, "--log-requests", "--set", "serve.drain.announce_seconds=0") as server:
        server.get("/health")
    assert [json.loads(line)["route"] for line in server.told] == ["/health"]


def test_a_stream_that_waits_sends_comments(serve: Any, gated: Any) -> None:
    running = serve(gated, comment_seconds=0.05)
    with running.client() as client, client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
        lines = answer.iter_lines()
        while next(lines) != ": waiting":
            pass
        gated.gate.release(1000)
        told = [line for line in lines if line and line != ": waiting"]
    assert told[-1] == "data: [DONE]"
    assert all(line.startswith("data: ") for line in told)


def test_pages_of_listed_origins_only_may_call(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, cors_origins=("https://app.example",), api_keys=("k",))
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    allowed = "access-control-allow-origin"
    with running.client() as client:
        preflight = client.options("/v1/completions", headers={"Origin": "https://app.example", **asked})
        assert preflight.status_code == 200
        assert preflight.headers[allowed] == "https://app.example"
        refused = client.get("/v1/models", headers={"Origin": "https://app.example"})
        assert (refused.status_code, refused.headers[allowed]) == (401, "https://app.example")
        other = client.options("/v1/completions", headers={"Origin": "https://evil.example", **asked})
        assert (other.status_code, other.headers.get(allowed)) == (400, None)
    assert allowed not in httpx.get(serve(engine).url + "/health", headers={"Origin": "https://a.example"}).headers


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/", "https://", ""])
def test_origins_are_checked(origin: str) -> None:
    from pydantic import ValidationError

    from longcat.stages.serve.settings import ServerSettings

    with pytest.raises(ValidationError, match="origin"):
        ServerSettings.model_validate({"model_name": "m", "cors_origins": [origin]})
    ServerSettings.model_validate({"model_name": "m", "cors_origins": ["*", "http://localhost:3000"]})


@pytest.fixture(autouse=True)
def quiet_again() -> Any:
    yield
    logging.getLogger("longcat.stages.serve.request_log.requests").setLevel(logging.NOTSET)
