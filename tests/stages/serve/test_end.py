"""The end of a server, by signals to its process and new connections."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.stages.serve.processes import HALF, Process, connect, read_all, serving

BODY = {"model": "tiny", "prompt": "The", "max_tokens": 150, "stream": True, "ignore_eos": True, "temperature": 0}
ANNOUNCED = ("--set", "serve.drain.announce_seconds=1.5")


def wait_for_closed_port(server: Process) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            connect(server.url).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < deadline, "the port is still open"
        time.sleep(0.02)


def wait_for_draining(server: Process) -> None:
    deadline = time.monotonic() + 10
    while server.get("/ready").status_code != 503:
        assert time.monotonic() < deadline, "the server is still ready"


def test_sigterm_is_announced_then_the_port_closes_and_running_requests_finish(checkpoint: Path) -> None:
    with serving(checkpoint, *ANNOUNCED, slow=True) as server, server.client() as client:
        assert server.get("/ready").json() == {"status": "ready"}
        with client.stream("POST", "/v1/completions", json=BODY) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            wait_for_draining(server)
            refused = httpx.post(server.url + "/v1/completions", json=BODY, trust_env=False)
            assert refused.status_code == 503
            assert refused.headers["connection"] == "close"
            assert refused.json()["error"]["code"] == "unavailable"
            assert server.get("/health").status_code == 503
            assert server.get("/metrics").status_code == 200
            wait_for_closed_port(server)
            told = [line for line in lines if line]
        assert told[-1] == "data: [DONE]"
        assert json.loads(told[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(20) == 0
    assert not [line for line in server.told if not line.startswith("503 ")]


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_requests_with_an_error_in_one_line(checkpoint: Path, second: signal.Signals) -> None:
    with serving(checkpoint, *ANNOUNCED, slow=True) as server, server.client() as client:
        with client.stream("POST", "/v1/completions", json=BODY) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            wait_for_draining(server)
            server.signal(second)
            told = [line.removeprefix("data: ") for line in lines if line]
        assert json.loads(told[-2])["error"]["code"] == "unavailable"
        assert told[-1] == "[DONE]"
        assert server.process.wait(20) == 0
    lines = [line for line in server.told if not line.startswith("503 ")]
    assert lines == ["requests that are ended: 1 (a second signal)"]


def test_ctrl_c_without_requests_ends_at_once(checkpoint: Path) -> None:
    with serving(checkpoint, "--set", "serve.drain.announce_seconds=600") as server:
        server.signal(signal.SIGINT)
        assert server.process.wait(20) == 0
    assert server.told == []


def test_requests_that_do_not_finish_in_time_end_with_an_error(checkpoint: Path) -> None:
    limits = ("--set", "serve.drain.announce_seconds=0", "--set", "serve.drain.seconds=0.2")
    with serving(checkpoint, *limits, slow=True) as server, server.client() as client:
        with client.stream("POST", "/v1/completions", json=BODY) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.signal(signal.SIGTERM)
            told = [line.removeprefix("data: ") for line in lines if line]
        assert json.loads(told[-2])["error"]["code"] == "unavailable"
        assert server.process.wait(20) == 0
    assert "requests that are ended: 1 (they did not finish in time)" in server.told


def test_the_end_does_not_wait_for_a_client_that_sends_half_a_request(checkpoint: Path) -> None:
    limits = ("--set", "serve.drain.announce_seconds=0", "--set", "serve.drain.seconds=0.2")
    with serving(checkpoint, *limits) as server, connect(server.url) as connection:
        connection.sendall(HALF)
        assert server.get("/health").status_code == 200
        server.signal(signal.SIGTERM)
        assert read_all(connection).startswith(b"HTTP/1.1 503")
        assert server.process.wait(20) == 0
    assert not [line for line in server.told if "Traceback" in line]
