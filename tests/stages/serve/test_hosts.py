"""Allowed hosts: Host headers against DNS rebinding, and the log line of a refused request."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from longcat.cli.app import run
from longcat.pipeline.errors import UsageError
from longcat.pipeline.processes import safe_environment, safe_python
from longcat.stages.serve.hosts import is_served, served_hosts

OK = {"model": "tiny", "prompt": "The", "max_tokens": 1}

LOOPBACK = [
    *("localhost", "LOCALHOST", "localhost:8000", "localhost.", "a.localhost:1", "127.0.0.1", "127.0.0.1:8000"),
    *("127.9.9.9:1", "[::1]", "[::1]:8000", "[::ffff:127.0.0.1]:80", "127.0.0.1:"),
]
OTHERS = [
    *("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost"),
    *("10.0.0.1", "0.0.0.0", "[::]", "[fe80::1]", "", " ", "a b", "localhost:80:80", "localhost/x", "[localhost]"),
    *("::1", "[::1", "2130706433", "user@localhost", "evil.example\\localhost", "caf\xe9.example", "127.1"),
    *("[::1%25lo]", "a" * 300, "localhost\x00", "*"),
]


@pytest.mark.parametrize("header", LOOPBACK)
def test_loopback_names_are_always_allowed(header: str) -> None:
    assert is_served(header, ())
    assert is_served(header, ("models.example",))


@pytest.mark.parametrize("header", OTHERS)
def test_other_names_are_not_allowed(header: str) -> None:
    assert not is_served(header, served_hosts(["127.0.0.1", "127.0.0.1"], ()))


@pytest.mark.parametrize(
    ("bound", "allowed", "header", "served"),
    [
        (["10.0.0.5", "10.0.0.5"], [], "10.0.0.5:8000", True),
        (["10.0.0.5", "10.0.0.5"], [], "models.example", False),
        (["models.example", "10.0.0.5"], [], "models.example:8000", True),
        (["models.example", "10.0.0.5"], [], "10.0.0.5", True),
        (["fd00::1", "fd00::1"], [], "[FD00:0::1]:8000", True),
        (["127.0.0.1"], ["models.example"], "MODELS.example:443", True),
        (["127.0.0.1"], ["Models.Example."], "models.example", True),
        (["127.0.0.1"], ["models.example"], "x.models.example", False),
        (["127.0.0.1"], ["*.example"], "a.b.example", True),
        (["127.0.0.1"], ["*.example"], "example", False),
        (["127.0.0.1"], ["*.example"], "notexample", False),
        (["127.0.0.1"], ["[2001:db8::1]", "192.0.2.1"], "[2001:db8:0::1]:80", True),
    ],
)
def test_the_bound_host_and_allowed_hosts(bound: list[str], allowed: list[str], header: str, served: bool) -> None:
    assert is_served(header, served_hosts(bound, allowed)) is served


def test_a_server_on_all_addresses_allows_any_name_unless_hosts_are_given() -> None:
    for address in ("0.0.0.0", "::"):
        assert served_hosts([address, address], []) == ("*",)
        narrowed = served_hosts([address, address], ["models.example"])
        assert not is_served("evil.example", narrowed)
        assert is_served("models.example", narrowed)
    assert "*" in served_hosts(["127.0.0.1"], ["*"])


@pytest.mark.parametrize(
    "name", ["", "http://a.example", "a.example:80", "a b", "*.*", "a/*", "**", "a..b", "\x1b[31m"]
)
def test_invalid_hosts_cannot_be_allowed(name: str) -> None:
    with pytest.raises(UsageError, match="is not a host") as caught:
        served_hosts(["127.0.0.1"], [name])
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics", "/openapi.json", "/none"])
def test_a_rebinding_page_is_refused(client: httpx.Client, path: str) -> None:
    for host in ("evil.example", "evil.example:8000", "169.254.169.254"):
        response = client.get(path, headers={"Host": host})
        assert response.status_code == 403
        error = response.json()["error"]
        assert (error["code"], "--allowed-host" in error["message"]) == ("host_not_allowed", True)
        assert response.headers["x-request-id"]
    assert client.get("/health", headers={"Host": "localhost:1"}).status_code == 200


def test_no_text_is_generated_for_a_refused_host(client: httpx.Client) -> None:
    assert client.post("/v1/completions", json=OK, headers={"Host": "evil.example"}).status_code == 403
    assert client.post("/v1/completions", json=OK).status_code == 200


def test_no_other_origin_may_read_an_answer(client: httpx.Client) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [client.options("/v1/completions", headers=asked), client.get("/v1/models", headers=asked)]
    assert answers[0].status_code == 405
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_allowed_hosts_are_answered(serve: Any, engine: Any) -> None:
    with serve(engine, allowed_hosts=("models.example",)).client() as client:
        assert client.get("/health", headers={"Host": "models.example:8000"}).status_code == 200
        assert client.get("/health", headers={"Host": "evil.example"}).status_code == 403
    with serve(engine, allowed_hosts=("*",)).client() as client:
        assert client.get("/health", headers={"Host": "any.example"}).status_code == 200


def raw(url: str, data: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.settimeout(10)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_malformed_headers(shared: Any) -> None:
    end = b"Connection: close\r\n\r\n"
    assert b" 200 " in raw(shared.url, b"GET /health HTTP/1.0\r\n" + end).splitlines()[0]
    assert b" 400 " in raw(shared.url, b"GET /health HTTP/1.1\r\n" + end).splitlines()[0]
    twice = b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
    assert b" 400 " in raw(shared.url, twice + end).splitlines()[0]
    absolute = b"GET http://localhost/health HTTP/1.1\r\nHost: evil.example\r\n"
    assert b" 403 " in raw(shared.url, absolute + end).splitlines()[0]
    for host in (b"caf\xe9", b"\x80", b"[::1", b"a b"):
        answer = raw(shared.url, b"GET /health HTTP/1.1\r\nHost: " + host + b"\r\n" + end)
        assert answer.splitlines()[0].split()[1] in (b"400", b"403")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Wait for the given number of log lines; a line is written just after its response."""
    caplog.set_level(logging.INFO, logger="longcat.stages.serve")
    monkeypatch.setattr(logging.getLogger("longcat"), "propagate", True)

    def found(wanted: int) -> list[str]:
        deadline = time.monotonic() + 5
        while True:
            told = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
            if len(told) >= wanted or time.monotonic() > deadline:
                return told
            time.sleep(0.01)

    return found


def test_every_refused_request_is_a_line(client: httpx.Client, lines: Any) -> None:
    client.post("/v1/completions", json=OK)
    client.get("/health")
    assert lines(0) == []
    client.post("/v1/completions", json={**OK, "prompt": "x" * 400, "max_tokens": 190})
    client.post("/v1/chat/completions", json={"model": "other", "messages": [{"role": "user", "content": "a"}]})
    client.get("/nowhere")
    client.get("/health", headers={"Host": "evil.example"})
    client.post("/v1/completions", content=b"{", headers={"Content-Type": "application/json"})
    found = lines(5)
    assert found[0].startswith("400 POST /v1/completions: the prompt has ")
    assert "the context holds 192 in all" in found[0]
    assert found[1] == "404 POST /v1/chat/completions: the model 'other' is not served here, 'tiny' is"
    assert found[2] == "404 GET /nowhere: Not Found"
    assert found[3].startswith("403 GET /health: the host 'evil.example' is not served here")
    assert found[4].startswith("400 POST /v1/completions: the body is not valid JSON")
    assert len(found) == 5


def test_a_log_line_is_one_line_without_control_characters(client: httpx.Client, lines: Any) -> None:
    client.get("/a%1b%5b31m%0ab")
    client.post("/v1/completions", json={**OK, "model": "x\x1b[31m\ny"})
    client.post("/v1/completions", json={**OK, "\x1b[31m\n": 1})
    client.get("/" + "x" * 5000)
    found = lines(4)
    assert len(found) == 4
    assert all(line.isprintable() and len(line) < 1200 for line in found)


def test_an_error_within_a_stream_is_a_line(serve: Any, gated: Any, lines: Any) -> None:
    running = serve(gated, request_seconds=0.2)
    with running.client() as client:
        response = client.post("/v1/completions", json={**OK, "stream": True, "max_tokens": 5})
    assert response.status_code == 200
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert events[-1]["error"]["code"] == "deadline_exceeded"
    assert lines(1) == ["504 POST /v1/completions: the request took longer than 0.2 s"]


def test_an_invalid_allowed_host_on_the_command_line_is_a_usage_error(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", "--checkpoint", str(checkpoint), "--port", "0", "--allowed-host", "http://a.example"]) == 2
    assert "--allowed-host 'http://a.example' is not a host" in capfd.readouterr().err


@pytest.mark.parametrize("quiet", [False, True])
def test_the_command_answers_allowed_hosts_and_logs_refusals_unless_quiet(quiet: bool, checkpoint: Path) -> None:
    options = ["--quiet"] if quiet else []
    allowed = ["--allowed-host", "models.example", "--allowed-host", "*.corp.example", "--device", "cpu"]
    command = [*safe_python(), "-m", "longcat.cli", *options, "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    environment = {**os.environ, **safe_environment(), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*command, *allowed], stderr=subprocess.PIPE, text=True, env=environment) as process:
        watchdog = threading.Timer(100, process.kill)
        watchdog.start()
        try:
            assert process.stderr is not None
            first = next(line for line in process.stderr if line.startswith("serving "))
            url = first.rpartition(" at ")[2].strip().removesuffix("/v1")
            with httpx.Client(base_url=url, trust_env=False, timeout=20) as client:
                hosts = ("models.example", "a.corp.example:1", "localhost", "evil.example")
                statuses = [client.get("/health", headers={"Host": host}).status_code for host in hosts]
            process.send_signal(signal.SIGTERM)
            told = process.stderr.read()
        finally:
            watchdog.cancel()
    assert statuses == [200, 200, 200, 403]
    assert told.startswith("403 GET /health: the host 'evil.example'") is not quiet
    assert len(told.splitlines()) == (0 if quiet else 1)
    assert process.returncode == 0
