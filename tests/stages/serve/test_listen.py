"""Where a server listens: busy ports, Unix sockets, TLS."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from longcat.cli.app import run
from longcat.pipeline.errors import InputError, UsageError
from longcat.stages.serve import listen
from longcat.stages.serve.settings import ServerSettings
from tests.stages.serve.processes import command, environment, serving


def test_of_two_servers_started_together_one_fails_at_once_with_one_line(checkpoint: Path) -> None:
    with listen.bind("127.0.0.1", 0) as probe:
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            command(checkpoint, ["--port", str(port)]), stderr=subprocess.PIPE, text=True, env=environment()
        )
        for _ in range(2)
    ]
    try:
        while all(process.poll() is None for process in started):
            for process in started:
                try:
                    process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
        (failed,) = [process for process in started if process.poll() is not None]
        assert failed.stderr is not None
        told = failed.stderr.read()
        assert failed.returncode == 3
        assert "cannot listen: Address already in use" in told
        assert "Traceback" not in told
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_a_port_is_taken_from_bind_on() -> None:
    with listen.bind("127.0.0.1", 0) as first, pytest.raises(InputError, match="cannot listen"):
        listen.bind("127.0.0.1", first.getsockname()[1])


def test_a_unix_socket_is_served_and_removed(checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(checkpoint, "--uds", str(path), "--set", "serve.drain.announce_seconds=0") as server:
        assert server.url == f"unix:{path}"
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        transport = httpx.HTTPTransport(uds=str(path))
        with httpx.Client(transport=transport, base_url="http://any.name") as client:
            assert client.get("/v1/models").status_code == 200
    assert not path.exists()


def test_a_unix_socket_in_use_is_refused_and_a_dead_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with listen.bind_uds(path), pytest.raises(InputError, match="cannot listen"):
        listen.bind_uds(path)
    assert path.exists()
    listen.close(listen.bind_uds(path), path)
    assert not path.exists()
    path.write_text("mine")
    with pytest.raises(InputError, match="cannot listen"):
        listen.bind_uds(path)
    assert path.read_text() == "mine"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    made = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(files[0]), "-keyout", str(files[1])]
    subprocess.run(made, check=True, capture_output=True)
    return files


def test_tls(checkpoint: Path, certificate: tuple[Path, Path]) -> None:
    given = ("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    with serving(checkpoint, *given, "--set", "serve.drain.announce_seconds=0") as server:
        assert server.url.startswith("https://127.0.0.1:")
        context = ssl.create_default_context(cafile=str(certificate[0]))
        with httpx.Client(verify=context, trust_env=False) as client:
            assert client.get(server.url + "/v1/models").status_code == 200
        host, port = server.url.removeprefix("https://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP/1.1 200")


def test_tls_files_that_cannot_be_used_are_one_line(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="belong together"):
        listen.tls_context(certificate[0], None)
    with pytest.raises(InputError, match="no such file"):
        listen.tls_context(certificate[0], tmp_path / "none.pem")
    with pytest.raises(InputError, match="cannot be used"):
        listen.tls_context(certificate[1], certificate[1])


def test_settings_on_the_command_line_are_checked(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["serve", "--checkpoint", str(checkpoint), "--port", "0"]
    assert run([*given, "--set", "serve.request_second=1"]) == 3
    assert "did you mean 'request_seconds'?" in capfd.readouterr().err
    assert run([*given, "--set", "request_seconds=1"]) == 3
    assert "settings begin with serve" in capfd.readouterr().err
    assert run([*given, "--set", "serve=1"]) == 3
    assert "is not a mapping" in capfd.readouterr().err


def test_the_help_names_ten_settings_with_their_defaults(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["serve", "--help"]) == 0
    named = dict(re.findall(r"serve\.([a-z_.]+)=([0-9]+) ", capfd.readouterr().out))
    assert len(named) >= 10
    settings = ServerSettings.model_validate({"model_name": "m"}).model_dump()
    for path, value in named.items():
        found: Any = settings
        for key in path.split("."):
            found = found[key]
        assert found == float(value), path


def test_settings_come_from_a_file_and_options_win(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longcat.stages.serve import server

    file = tmp_path / "serve.yaml"
    file.write_text("serve:\n  request_seconds: 60\n  max_queue: 5\n  limits: {choices: 3, prompts: 4}\n")
    found: dict[str, Any] = {}
    monkeypatch.setattr(server, "serve", lambda *_, values, **__: found.update(values))
    given = ["--config", str(file), "--set", "serve.limits.choices=2", "--max-queue", "7"]
    assert run(["serve", "--checkpoint", str(checkpoint), *given]) == 0
    assert found["request_seconds"] == 60
    assert found["max_queue"] == 7
    assert found["limits"] == {"choices": 2, "prompts": 4}
