"""Connections that send nothing, half a request, or read nothing; and their number."""

from __future__ import annotations

import logging
import socket
import time
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from longcat.stages.inference.engine import InferenceEngine
from tests.stages.serve.processes import HALF, connect, read_all

GET = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "eA=="}


def status(url: str, path: str = "/v1/models") -> int:
    return httpx.get(url + path, trust_env=False, timeout=10).status_code


def open_many(stack: ExitStack, url: str, count: int) -> list[socket.socket]:
    return [stack.enter_context(connect(url)) for _ in range(count)]


def is_closed(connection: socket.socket) -> bool:
    try:
        return not connection.recv(1)
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("limits", [{"total": 20}, {"per_address": 20}])
def test_idle_connections_make_room_for_new_ones(serve: Any, engine: InferenceEngine, limits: dict[str, int]) -> None:
    running = serve(engine, connections=limits)
    with ExitStack() as stack:
        idle = open_many(stack, running.url, 50)
        assert status(running.url) == 200
        assert status(running.url, "/health") == 200
        # The oldest went first.
        assert is_closed(idle[0])
        idle[-1].sendall(GET)
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 200")


def test_health_is_answered_when_every_connection_is_busy(serve: Any, gated: Any) -> None:
    running = serve(gated, connections={"per_address": 2})
    with ExitStack() as stack:
        for connection in open_many(stack, running.url, 2):
            connection.sendall(HALF)
        deadline = time.monotonic() + 10
        while status(running.url) != 503:
            assert time.monotonic() < deadline
        refused = httpx.get(running.url + "/v1/models", trust_env=False)
        assert refused.headers["connection"] == "close"
        assert refused.json()["error"]["message"] == "there are too many connections"
        assert status(running.url, "/health") == status(running.url, "/ready") == 200
    while status(running.url) != 200:
        assert time.monotonic() < deadline


@pytest.mark.parametrize("sent", [b"", b"GET /v1/models HTT", b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_the_head_of_a_request_has_a_time_limit(serve: Any, engine: InferenceEngine, sent: bytes) -> None:
    running = serve(engine, connections={"header_seconds": 0.3})
    with connect(running.url) as connection:
        connection.sendall(sent)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408") if sent else answer == b""


def test_bytes_that_trickle_do_not_extend_the_limit(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, connections={"header_seconds": 0.5})
    with connect(running.url) as connection:
        connection.sendall(GET[:20])
        deadline = time.monotonic() + 20
        try:
            while True:
                connection.sendall(b"a")
                time.sleep(0.05)
                assert time.monotonic() < deadline
        except OSError:
            pass


def test_a_later_request_of_a_connection_has_the_limit_too(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, connections={"header_seconds": 0.3})
    with connect(running.url) as connection:
        connection.sendall(GET)
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.sendall(GET[:30])
        assert b"HTTP/1.1 408" in read_all(connection)


def test_a_body_that_never_ends_is_answered_and_the_connection_closed(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, body_seconds=0.2)
    with connect(running.url) as connection:
        connection.sendall(HALF)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()


def test_the_rest_of_a_refused_body_has_a_time_limit(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, api_keys=("k",), connections={"header_seconds": 0.3})
    with connect(running.url) as connection:
        connection.sendall(HALF)
        assert connection.recv(4096).startswith(b"HTTP/1.1 401")
        connection.sendall(b"x")
        read_all(connection)


def test_a_client_that_reads_nothing_is_left(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, connections={"write_seconds": 0.3}, request_seconds=60)
    with connect(running.url) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        # Pipelined requests whose answers nobody reads fill every buffer.
        request = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400
        connection.settimeout(0.5)
        deadline = time.monotonic() + 30
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                try:
                    connection.send(request)
                except TimeoutError:
                    time.sleep(0.1)


def test_a_body_that_is_cut_off_is_one_debug_line(
    serve: Any, engine: InferenceEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    running = serve(engine)
    with connect(running.url) as connection:
        connection.sendall(HALF)
    deadline = time.monotonic() + 10
    while 'status="499"' not in httpx.get(running.url + "/metrics", trust_env=False).text:
        assert time.monotonic() < deadline
    found = [record for record in caplog.records if "/v1/completions" in record.message or record.exc_info]
    assert [(record.levelname, record.getMessage()[:3]) for record in found] == [("DEBUG", "499")]
    assert 'status="500"' not in httpx.get(running.url + "/metrics", trust_env=False).text


def test_what_is_not_http_is_answered_in_the_format_of_errors(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine)
    with connect(running.url) as connection:
        connection.sendall(b"\x16\x03\x01 not http\r\n\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b'"code": "invalid_http"' in answer


def test_slashes_are_not_redirected_and_upgrades_are_ignored(
    serve: Any, engine: InferenceEngine, caplog: pytest.LogCaptureFixture
) -> None:
    running = serve(engine)
    answer = httpx.post(running.url + "/v1/completions/", json={}, trust_env=False, headers={"Host": "localhost"})
    assert answer.status_code == 404
    assert "location" not in answer.headers
    assert httpx.get(running.url + "/v1/models", trust_env=False, headers=UPGRADE).status_code == 200
    assert "pip install" not in caplog.text
