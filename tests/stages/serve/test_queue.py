"""Queueing, disconnection and shutdown; decoding continues only when the test allows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

BODY = {"model": "tiny", "prompt": "The", "max_tokens": 100, "temperature": 0, "ignore_eos": True}


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.005)


def metric(client: httpx.Client, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " "))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def post(running: Any, **fields: Any) -> httpx.Response:
    with running.client() as client:
        return client.post("/v1/completions", json={**BODY, **fields})


def test_a_full_queue_answers_429(serve: Any, gated: Any, pool: ThreadPoolExecutor) -> None:
    running = serve(gated, max_queue=2)
    asked: list[Future[httpx.Response]] = [pool.submit(post, running, max_tokens=2) for _ in range(3)]
    with running.client() as client:
        wait_for(lambda: metric(client, "longcat_requests_waiting") == 2)
        assert metric(client, "longcat_requests_running") == 1
        for stream in (False, True):
            refused = post(running, stream=stream)
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "queue_full"
        assert client.get("/health").status_code == 200
        gated.gate.release(1000)
        assert [future.result(10).status_code for future in asked] == [200, 200, 200]
        assert post(running, max_tokens=2).status_code == 200


def test_without_a_queue_one_request_is_accepted(serve: Any, gated: Any, pool: ThreadPoolExecutor) -> None:
    running = serve(gated, max_queue=0)
    asked = pool.submit(post, running, max_tokens=1)
    with running.client() as client:
        wait_for(lambda: metric(client, "longcat_requests_running") == 1)
    assert post(running).status_code == 429
    gated.gate.release(1000)
    assert asked.result(10).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_disconnected_client_ends_its_generation(serve: Any, gated: Any, stream: bool) -> None:
    running = serve(gated)
    with running.client() as client:
        with httpx.Client(base_url=running.url, timeout=0.4, trust_env=False) as leaving:
            gated.gate.release(3)
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/completions", json={**BODY, "stream": stream})
        wait_for(lambda: metric(client, "longcat_requests_running") == 0)
        assert metric(client, "longcat_requests_cancelled_total") == 1
        # Three steps were allowed, the fourth was running; none was started after that.
        assert gated.steps <= 4
        gated.gate.release(1000)
        assert client.post("/v1/completions", json={**BODY, "max_tokens": 2}).status_code == 200


def test_a_client_that_leaves_the_queue_frees_its_slot(serve: Any, gated: Any, pool: ThreadPoolExecutor) -> None:
    running = serve(gated, max_queue=1)
    first = pool.submit(post, running, max_tokens=2)
    with running.client() as client:
        wait_for(lambda: metric(client, "longcat_requests_running") == 1)
        with (
            httpx.Client(base_url=running.url, timeout=0.3, trust_env=False) as leaving,
            pytest.raises(httpx.ReadTimeout),
        ):
            leaving.post("/v1/completions", json=BODY)
        wait_for(lambda: metric(client, "longcat_requests_waiting") == 0)
        second = pool.submit(post, running, max_tokens=2)
        wait_for(lambda: metric(client, "longcat_requests_waiting") == 1)
    gated.gate.release(1000)
    assert (first.result(10).status_code, second.result(10).status_code) == (200, 200)


def test_a_request_has_a_deadline(serve: Any, gated: Any) -> None:
    running = serve(gated, request_seconds=0.2)
    late = post(running)
    assert late.status_code == 504
    assert late.json()["error"]["code"] == "deadline_exceeded"
    gated.gate.release(2)
    with running.client() as client, client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert json.loads(lines[-2])["error"]["code"] == "deadline_exceeded"
    assert lines[-1] == "[DONE]"


def test_text_arrives_while_it_is_written(serve: Any, gated: Any) -> None:
    running = serve(gated)
    with running.client() as client, client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
        lines = answer.iter_lines()
        gated.gate.release(4)
        assert next(lines).startswith("data: ")
        assert gated.steps <= 4
        gated.gate.release(1000)
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_draining_finishes_running_requests_and_refuses_new_ones(
    serve: Any, gated: Any, pool: ThreadPoolExecutor
) -> None:
    running = serve(gated)
    with running.client() as client:
        running_request = pool.submit(post, running, max_tokens=3)
        wait_for(lambda: metric(client, "longcat_requests_running") == 1)
        running.service.drain()
        assert client.get("/health").status_code == 503
        refused = client.post("/v1/completions", json=BODY)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "unavailable"
        running.server.handle_exit(15, None)
        gated.gate.release(1000)
        assert running_request.result(10).status_code == 200
    running.thread.join(10)
    assert not running.thread.is_alive()


def test_a_failure_is_reported_without_details_and_does_not_persist(
    serve: Any, gated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = serve(gated)
    gated.gate.release(1000)
    with monkeypatch.context() as patch:
        patch.setattr(gated.core.runner, "forward", lambda *_: 1 / 0)
        failed = post(running)
    assert failed.status_code == 500
    assert "division" not in failed.text
    assert failed.json()["error"]["code"] == "internal_error"
    assert post(running, max_tokens=1).status_code == 200


def test_a_dead_worker_shows_in_health(serve: Any, gated: Any) -> None:
    running = serve(gated)
    running.service.worker.close()
    with running.client() as client:
        assert client.get("/health").status_code == 503
        assert client.post("/v1/completions", json=BODY).status_code == 503
