"""API keys: never empty, compared as bytes, several of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from longcat.cli.app import run
from longcat.pipeline.errors import InputError, UsageError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.auth import KeyRing, gather_keys
from tests.stages.serve.processes import connect


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_an_empty_key_does_not_leave_the_server_open(
    checkpoint: Path, empty: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = ["serve", "--checkpoint", str(checkpoint), "--port", "0"]
    assert run([*given, "--api-key", empty]) == 2
    assert "--api-key is empty" in capfd.readouterr().err
    monkeypatch.setenv("LONGCAT_API_KEY", empty)
    assert run(given) == 2
    assert "LONGCAT_API_KEY is empty" in capfd.readouterr().err


def test_keys_are_stripped_and_come_from_one_place_after_the_other(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the team\n\n  first \r\nsecond\nfirst\n")
    environment = {"LONGCAT_API_KEY": "other\n"}
    assert gather_keys(["a\n", " b "], None, environment) == ["a", "b"]
    assert gather_keys(["a"], file, environment) == ["a", "first", "second"]
    assert gather_keys([], None, environment) == ["other"]
    assert gather_keys([], None, {}) == []


@pytest.mark.parametrize("content", [b"", b"# none\n", b"\xff", b"a\x00b\n"])
def test_a_key_file_without_usable_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises((InputError, UsageError)):
        gather_keys([], file, {})
    with pytest.raises(InputError, match="cannot be read"):
        gather_keys([], tmp_path / "none", {})


def test_every_key_opens_the_server_and_nothing_else_does(serve: Any, engine: InferenceEngine) -> None:
    keys = ("first", "zwölf", "with space")
    running = serve(engine, api_keys=keys)
    with running.client() as client:
        for key in keys:
            sent = {"Authorization": b"Bearer " + key.encode()}
            assert client.get("/v1/models", headers=sent).status_code == 200
        for wrong in (b"Bearer zw\xf6lf", b"Bearer firs", b"Bearer", b"Bearer first second", b"", b"Basic first"):
            assert client.get("/v1/models", headers={"Authorization": wrong}).status_code == 401
    with connect(running.url) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: bearer \t first \r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")


def test_keys_have_names_that_do_not_tell_them() -> None:
    ring = KeyRing(["first", "second"])
    names = [ring.name_of(key) for key in (b"first", b"second", b"third", b"")]
    assert names[0] != names[1]
    assert names[2:] == [None, None]
    assert "first" not in str(names)


def test_environment_key_is_used(serve: Any, engine: InferenceEngine) -> None:
    running = serve(engine, api_keys=tuple(gather_keys([], None, {"LONGCAT_API_KEY": "k \n"})))
    assert httpx.get(running.url + "/v1/models", headers={"Authorization": "Bearer k"}).status_code == 200
