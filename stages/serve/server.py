"""`longcat serve`: the HTTP interface under uvicorn, from loading a checkpoint to a drained shutdown."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from longcat.pipeline.config import build_config
from longcat.pipeline.errors import InputError, UsageError
from longcat.pipeline.progress import Progress

try:
    import uvicorn

    from longcat.stages.serve.api import create_app
except ModuleNotFoundError as missing:
    if missing.name not in ("fastapi", "uvicorn", "starlette"):
        raise
    raise UsageError(f"serving needs {missing.name}", hint='pip install "longcat-cli[serve]"') from None

from longcat.stages.serve.hosts import served_hosts
from longcat.stages.serve.loading import Device, Dtype, load_engine
from longcat.stages.serve.settings import ServerSettings

logger = logging.getLogger(__name__)
KEY_VARIABLE = "LONGCAT_API_KEY"
HEADER_BYTES = 64 << 10
KEEP_ALIVE_SECONDS = 30
MAX_CONNECTIONS = 1024


def serve(
    checkpoint: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    model_name: str | None = None,
    api_key: str | None = None,
    max_queue: int = 32,
    allowed_hosts: Sequence[str] = (),
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve a checkpoint folder until SIGTERM or SIGINT, then let running requests end.

    `model_name` defaults to the folder's name, `api_key` to the environment variable LONGCAT_API_KEY; without either
    the server is open to whoever can reach it. It answers requests for `host`, for names of loopback and for
    `allowed_hosts`; see `stages.serve.hosts`. `port` 0 takes a free one. `on_ready` is called with the address once
    requests are taken.

    Raises:
        UsageError: the extra `serve` is not installed, or an allowed host is none.
        InputError: the checkpoint cannot be loaded, or the address cannot be bound.
    """
    listener = bind(host, port)
    try:
        values = {
            "model_name": model_name or checkpoint.resolve().name,
            "api_key": api_key or os.environ.get(KEY_VARIABLE) or None,
            "max_queue": max_queue,
            "allowed_hosts": served_hosts([host, listener.getsockname()[0]], allowed_hosts),
        }
        settings = build_config(ServerSettings, values, "serve")
        if settings.api_key is None and not _is_loopback(listener):
            logger.warning("serving beyond this machine without a key; set %s or --api-key", KEY_VARIABLE)
        engine = load_engine(checkpoint, device=device, dtype=dtype, threads=threads, progress=progress)
        app = create_app(engine, settings)
        server = DrainingServer(uvicorn_config(app, settings), on_stop=app.state.service.drain, on_ready=on_ready)
        server.run(sockets=[listener])
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """A bound TCP socket; taken before the checkpoint is loaded, so that a busy port is told at once.

    Raises:
        InputError: no such host, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        hint = "choose another --port, or --port 0 for a free one"
        raise InputError(f"cannot listen: {error.strerror}", where=f"{host}:{port}", hint=hint) from None
    return listener


def _is_loopback(listener: socket.socket) -> bool:
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def uvicorn_config(app: object, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn runs the application; it logs through `logging`, never to stdout."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        # 0 would mean no limit.
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
        h11_max_incomplete_event_size=HEADER_BYTES,
    )


class DrainingServer(uvicorn.Server):
    """Ends with success after a signal: no new requests, the running ones finish; a second signal ends at once."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        on_stop: Callable[[], None],
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for address in map(_url, sockets or ()):
            logger.debug("serving at %s", address)
            if self._on_ready is not None:
                self._on_ready(address)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn's, but without raising the signal again: a drained server has done what was asked."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._on_stop()
        self.force_exit = self.should_exit
        self.should_exit = True


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
