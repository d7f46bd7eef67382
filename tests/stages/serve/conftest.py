"""A tiny checkpoint with a real tokenizer, an engine for it, and a real server on a free loopback port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.serve.api import create_app
from longcat.stages.serve.draining_server import DrainingServer
from longcat.stages.serve.listen import bind
from longcat.stages.serve.model_swap import Admin
from longcat.stages.serve.server import uvicorn_config
from longcat.stages.serve.service import Service
from longcat.stages.serve.settings import ServerSettings

CONTEXT = 192
TEXTS = (
    "The quick brown fox jumps over the lazy dog, again and again and again.",
    "Größe und Maß: naïve café, œuvre, São Paulo. 日本語のテキスト。 中文文本。 🙂🙃",
    "def add(a, b):\n    return a + b\n\nprint(add(1, 2))\n",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint folder: random weights large enough that greedy text varies, and a tokenizer of 320 tokens."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny-longcat"
    folder.mkdir()
    tokenizer = train(TEXTS * 4, TokenizerConfig(vocab_size=320))
    write_tokenizer(tokenizer, folder)
    base = load_preset("smoke").model_dump()
    changes = {"vocab_size": 320, "max_position_embeddings": CONTEXT, "initializer_range": 0.3}
    model = LongcatFlash(ModelConfig(**{**base, **changes}))
    initialize(model, 5)
    save_pretrained(model, folder)
    return folder


@pytest.fixture
def engine(checkpoint: Path) -> InferenceEngine:
    return load_engine(checkpoint, device="cpu", threads=1)


class GatedEngine(InferenceEngine):
    """An engine that computes one step per `gate.release()` of the test, for one request at a time."""

    def __init__(self, engine: InferenceEngine) -> None:
        super().__init__(engine.model, engine.tokenizer, engine.stop_token_ids, EngineOptions(max_sequences=1))
        self.gate = threading.Semaphore(0)
        self.steps = 0
        self.compute = self.core.runner.forward
        self.core.runner.forward = self.wait_and_compute  # type: ignore[method-assign]

    def wait_and_compute(self, pieces: Any) -> Any:
        while not self.gate.acquire(timeout=0.01):
            jobs = [sequence.group.job for sequence in self.core.scheduler.running]  # type: ignore[attr-defined]
            if any(job.cancelled.is_set() or time.monotonic() > job.deadline for job in jobs):
                break
        self.steps += 1
        return self.compute(pieces)


@pytest.fixture
def gated(engine: InferenceEngine) -> Iterator[GatedEngine]:
    gated = GatedEngine(engine)
    yield gated
    gated.gate.release(10_000)


@dataclass
class Running:
    """A server under test."""

    url: str
    service: Service
    server: DrainingServer
    thread: threading.Thread

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=20, trust_env=False, **options)


@contextmanager
def running(
    engine: InferenceEngine, worker: Any = None, admin: Admin | None = None, **settings: Any
) -> Iterator[Running]:
    chosen = ServerSettings(**{"model_name": "tiny", "drain": {"announce_seconds": 0}, **settings})
    app = create_app(engine, chosen, worker, admin)
    service: Service = app.state.service
    ready, found = threading.Event(), []

    def on_ready(url: str) -> None:
        found.append(url)
        ready.set()

    server = DrainingServer(uvicorn_config(app, chosen), service=service, drain=chosen.drain, on_ready=on_ready)
    listener = bind("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        assert ready.wait(10)
        yield Running(found[0], service, server, thread)
    finally:
        if isinstance(engine, GatedEngine):
            engine.gate.release(10_000)
        server.handle_exit(15, None)
        thread.join(10)
        listener.close()
        assert not thread.is_alive()


Serve = Callable[..., Running]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers that are stopped after the test."""
    with ExitStack() as stack:
        yield lambda engine, **settings: stack.enter_context(running(engine, **settings))


@pytest.fixture(scope="module")
def shared(checkpoint: Path) -> Iterator[Running]:
    """One ungated server for tests that only send requests."""
    with running(load_engine(checkpoint, device="cpu", threads=1)) as server:
        yield server


@pytest.fixture
def client(shared: Running) -> Iterator[httpx.Client]:
    with shared.client() as client:
        yield client
