"""A tiny checkpoint with a real tokenizer, an engine on it, and a real server on a free loopback port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor

from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.serve.api import Service, create_app
from longcat.stages.serve.engine import InferenceEngine, TokenCache
from longcat.stages.serve.loading import load_engine
from longcat.stages.serve.server import DrainingServer, bind, uvicorn_config
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
    """A checkpoint folder: random weights wide enough that greedy text varies, and a tokenizer of 320 tokens."""
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
    """An engine that decodes a token only when the test lets it, by `gate.release()`."""

    def __init__(self, engine: InferenceEngine) -> None:
        super().__init__(engine.model, engine.tokenizer, engine.stop_token_ids)
        self.gate = threading.Semaphore(0)
        self.steps = 0

    def append(self, cache: TokenCache, ids: Sequence[int], cancelled: Callable[[], bool] = lambda: False) -> Tensor:
        while not self.gate.acquire(timeout=0.01):
            if cancelled():
                break
        self.steps += 1
        return super().append(cache, ids, cancelled)


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
def running(engine: InferenceEngine, **settings: Any) -> Iterator[Running]:
    chosen = ServerSettings(**{"model_name": "tiny", **settings})
    app = create_app(engine, chosen)
    service: Service = app.state.service
    ready, found = threading.Event(), []

    def on_ready(url: str) -> None:
        found.append(url)
        ready.set()

    server = DrainingServer(uvicorn_config(app, chosen), on_stop=service.drain, on_ready=on_ready)
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
    """Start servers; they end with the test."""
    with ExitStack() as stack:
        yield lambda engine, **settings: stack.enter_context(running(engine, **settings))


@pytest.fixture(scope="module")
def shared(checkpoint: Path) -> Iterator[Running]:
    """One ungated server for tests that only ask."""
    with running(load_engine(checkpoint, device="cpu", threads=1)) as server:
        yield server


@pytest.fixture
def client(shared: Running) -> Iterator[httpx.Client]:
    with shared.client() as client:
        yield client
