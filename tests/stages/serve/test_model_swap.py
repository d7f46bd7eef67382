"""Another checkpoint takes over: running requests finish on the old one, new ones get the new one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from longcat.model.checkpoint import load_config, save_pretrained
from longcat.model.init import initialize
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.errors import MissingArtifactError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.serve.model_swap import Admin

from .conftest import Serve

KEY = {"Authorization": "Bearer admin"}
BODY = {"model": "tiny", "prompt": "The", "max_tokens": 6, "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def other(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with other weights and a shorter context."""
    folder = tmp_path_factory.mktemp("other") / "other"
    folder.mkdir()
    for path in checkpoint.iterdir():
        if path.suffix not in (".safetensors",):
            (folder / path.name).write_bytes(path.read_bytes())
    model = LongcatFlash(load_config(checkpoint).model_copy(update={"max_position_embeddings": 96}))
    initialize(model, 17)
    save_pretrained(model, folder)
    return folder


def load(folder: Path) -> InferenceEngine:
    return load_engine(folder, device="cpu")


def resolve(reference: str) -> Path:
    if not Path(reference).is_dir():
        raise MissingArtifactError(f"{reference} matches nothing")
    return Path(reference)


ADMIN = Admin(["admin"], resolve, load)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def swap(client: httpx.Client, checkpoint: Path | str, headers: Any = KEY) -> httpx.Response:
    return client.post("/admin/model", json={"checkpoint": str(checkpoint)}, headers=headers)


def texts(engine: InferenceEngine) -> str:
    ids = engine.tokenizer.encode("The", parse_special=True)
    params = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    from longcat.stages.inference.sampling import SamplingParams

    return "".join(delta.text for delta in engine.generate(ids, SamplingParams(**params)))


def test_running_requests_finish_and_new_ones_get_the_new_model(
    serve: Serve, gated: Any, checkpoint: Path, other: Path, pool: ThreadPoolExecutor
) -> None:
    old, new = texts(load(checkpoint)), texts(load(other))
    assert old != new
    server = serve(gated, admin=ADMIN)
    with server.client() as client:
        with client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as answer:
            gated.gate.release(2)
            lines = answer.iter_lines()
            first = next(lines)
            assert swap(client, other).json()["max_model_len"] == 96
            assert client.post("/v1/completions", json=BODY).json()["choices"][0]["text"] == new
            assert client.get("/v1/models/tiny").json()["max_model_len"] == 96
            gated.gate.release(1000)
            streamed = [first, *lines]
        events = [httpx.Response(200, content=line.removeprefix("data: ")).json() for line in streamed if "{" in line]
        assert "".join(event["choices"][0]["text"] for event in events if event["choices"]) == old
        assert client.get("/health").status_code == 200


def test_who_may_swap(serve: Serve, engine: InferenceEngine, other: Path) -> None:
    server = serve(engine, admin=ADMIN, api_keys=("client",))
    with server.client() as client:
        for headers in ({}, {"Authorization": "Bearer client"}):
            assert swap(client, other, headers).status_code == 401
    with serve(engine).client() as client:
        assert swap(client, other).status_code == 404


def test_what_cannot_be_served_changes_nothing(
    serve: Serve, engine: InferenceEngine, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(engine, admin=ADMIN).client() as client:
        missing = swap(client, "nowhere")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "checkpoint_not_found")
        assert swap(client, tmp_path).status_code == 400
        assert client.post("/admin/model", json={}, headers=KEY).json()["error"]["param"] == "checkpoint"
        with monkeypatch.context() as patch:
            patch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 1 << 20}))
            refused = swap(client, other)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "insufficient_memory")
        assert client.get("/v1/models/tiny").json()["max_model_len"] == engine.max_length
        assert client.post("/v1/completions", json=BODY).status_code == 200


def test_one_swap_at_a_time(serve: Serve, engine: InferenceEngine, other: Path, pool: ThreadPoolExecutor) -> None:
    begun, may_end = threading.Event(), threading.Event()

    def slowly(folder: Path) -> InferenceEngine:
        begun.set()
        assert may_end.wait(20)
        return load(folder)

    with serve(engine, admin=Admin(["admin"], resolve, slowly)).client() as client:
        first = pool.submit(swap, client, other)
        assert begun.wait(20)
        assert swap(client, other).json()["error"]["code"] == "busy"
        may_end.set()
        assert first.result(20).status_code == 200
