"""Incidents of other servers, one test each: the request is refused or harmless, and the next one is answered."""

from __future__ import annotations

import json
import pickle
import shutil
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from longcat.pipeline.errors import IntegrityError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine

OK: dict[str, Any] = {"model": "tiny", "prompt": "The", "max_tokens": 1}
CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


def refused(client: httpx.Client, route: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = client.post(route, json=body)
    assert answer.status_code == 400, answer.text
    assert client.get("/health").status_code == 200
    assert client.post("/v1/completions", json=OK).status_code == 200
    error: dict[str, Any] = answer.json()["error"]
    return error


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 10**9},
        {"best_of": 10**9},
        {"logprobs": 10**9},
        {"max_tokens": 10**9},
        {"stop": ["x"] * 100_000},
        {"logit_bias": {str(token): 1 for token in range(100_000)}},
        {"stop_token_ids": [1] * 100_000},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_numbers_without_bound(client: httpx.Client, fields: dict[str, Any]) -> None:
    """CVE-2026-34756."""
    refused(client, "/v1/completions", {**OK, **fields})


@pytest.mark.parametrize("prompt", ["", [], [[]], [""], [320], [-1], [2**63]], ids=str)
def test_empty_and_unknown_prompts(client: httpx.Client, prompt: Any) -> None:
    """vLLM before 0.5.5."""
    refused(client, "/v1/completions", {**OK, "prompt": prompt})


def test_code_of_a_checkpoint_is_never_imported(checkpoint: Path, tmp_path: Path, serve: Any) -> None:
    """CVE-2026-22807."""
    folder = tmp_path / "hostile"
    shutil.copytree(checkpoint, folder)
    stated = json.loads((folder / "config.json").read_text())
    stated["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Config"}
    (folder / "config.json").write_text(json.dumps(stated))
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()\n")
    with serve(load_engine(folder, device="cpu", threads=1)).client() as client:
        assert client.post("/v1/completions", json=OK).status_code == 200
    assert not (tmp_path / "run").exists()
    assert "modeling_evil" not in sys.modules


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def test_weights_are_never_unpickled(checkpoint: Path, tmp_path: Path) -> None:
    """CVE-2026-3059, 3060, 7301 and 7304."""
    folder = tmp_path / "hostile"
    shutil.copytree(checkpoint, folder)
    for weights in folder.glob("*.safetensors*"):
        weights.unlink()
    for name in ("pytorch_model.bin", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(Evil(tmp_path / "run")))
    with pytest.raises(IntegrityError):
        load_engine(folder, device="cpu", threads=1)
    assert not (tmp_path / "run").exists()


def test_templates_of_requests_are_refused(client: httpx.Client) -> None:
    """CVE-2026-5760."""
    for template in ("{{ 1 }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"):
        assert refused(client, "/v1/chat/completions", {**CHAT, "chat_template": template})["param"] == "chat_template"
    inside = {**CHAT, "chat_template_kwargs": {"tools": [], "messages": []}}
    refused(client, "/v1/chat/completions", inside)


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(90000) %}" * 3 + "{% endfor %}" * 3,
        "{{ 'x' * 2000000000 }}",
        "{{ messages.__class__.__mro__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{% set a = [1] %}{% for i in range(60) %}{% set a = a + a %}{{ a }}{% endfor %}{% include '/etc/passwd' %}",
    ],
    ids=["loops", "memory", "objects", "files"],
)
def test_a_hostile_template_of_a_checkpoint_costs_little(
    checkpoint: Path, tmp_path: Path, serve: Any, template: str
) -> None:
    """CVE-2026-5760, with a checkpoint from elsewhere: completions go on, and chats are refused."""
    folder = tmp_path / "hostile"
    shutil.copytree(checkpoint, folder)
    (folder / "chat_template.jinja").write_text(template)
    drain = {"announce_seconds": 0, "seconds": 0.5}
    running = serve(load_engine(folder, device="cpu", threads=1), drain=drain)
    answers: list[httpx.Response] = []

    def chat() -> None:
        # The server of the test ends before the last ones are answered.
        with running.client() as own, suppress(httpx.HTTPError):
            answers.append(own.post("/v1/chat/completions", json=CHAT, timeout=150))

    # More than any pool has threads.
    threads = [threading.Thread(target=chat, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    with running.client() as client:
        for _ in range(3):
            assert client.post("/v1/completions", json=OK).status_code == 200
        assert client.get("/health").status_code == 200
    threads[0].join(150)
    assert {answer.status_code for answer in answers} <= {400, 503}
    assert answers[0].status_code == 400
    assert not any("root:" in answer.text or "<class" in answer.text for answer in answers)


def test_a_thousand_grammars_are_not_kept(serve: Any, engine: InferenceEngine, tmp_path: Path) -> None:
    """GHSA-mgrm-fgjv-mhv8."""
    running = serve(engine)
    compiler = running.service.served.grammars.compiler
    with running.client() as client:
        for number in range(1000):
            body = {**OK, "structured_outputs": {"choice": [f"a{number}", "b"]}}
            assert client.post("/v1/completions", json=body).status_code == 200
    assert len(compiler) <= 64
    assert compiler.cache_bytes <= 128 << 20


@pytest.mark.parametrize(
    "bad",
    [
        {"json": {"type": "nothing"}},
        {"json": {"$ref": "#/$defs/none"}},
        {"json": "{"},
        {"regex": "("},
        {"regex": "(a{1000}){1000}"},
        {"grammar": "start: ["},
        {"grammar": "start: start start"},
        {"choice": []},
    ],
    ids=str,
)
def test_a_bad_grammar_then_a_good_request(client: httpx.Client, bad: dict[str, Any]) -> None:
    """vLLM 0.20 and 0.21."""
    answer = client.post("/v1/completions", json={**OK, "structured_outputs": bad})
    assert answer.status_code in (200, 400), answer.text
    good = {**OK, "max_tokens": 20, "structured_outputs": {"choice": ["yes", "no"]}}
    assert client.post("/v1/completions", json=good).json()["choices"][0]["text"] in ("yes", "no")


def test_deep_schemas_and_slow_patterns(client: httpx.Client) -> None:
    """llama.cpp, report of pull request 22606."""
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"anyOf": [deep]}
    refused(client, "/v1/completions", {**OK, "structured_outputs": {"json": deep}})
    refused(client, "/v1/completions", {**OK, "structured_outputs": {"regex": "a" * 200_000}})
    slow = {**OK, "max_tokens": 30, "structured_outputs": {"regex": "(a|a)*(a|aa)+$"}}
    assert client.post("/v1/completions", json=slow).status_code in (200, 400)
    assert client.post("/v1/completions", json=OK).status_code == 200


def test_nothing_is_ever_fetched(client: httpx.Client) -> None:
    """Server-side request forgery by the address of a medium."""
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x.png"
        parts = [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "input_audio", "input_audio": {"data": url}},
        ]
        parts += [{"type": "file", "file": {"file_data": url}}, {"type": "video_url", "video_url": {"url": url}}]
        for part in parts:
            refused(client, "/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [part]}]})
        item = {"role": "user", "content": [{"type": "input_image", "image_url": url}]}
        refused(client, "/v1/responses", {"model": "tiny", "input": [item]})
        trap.settimeout(0.2)
        with pytest.raises(TimeoutError):
            trap.accept()
