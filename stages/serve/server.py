"""`longcat serve`: the HTTP interface under uvicorn, from loading a checkpoint to a drained shutdown."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from longcat.pipeline.config import build_config
from longcat.pipeline.errors import UsageError
from longcat.pipeline.progress import Progress

try:
    import uvicorn

    from longcat.stages.serve.api import create_app
    from longcat.stages.serve.connections import protocol_factory
    from longcat.stages.serve.draining_server import DrainingServer
    from longcat.stages.serve.model_swap import Admin
except ModuleNotFoundError as missing:
    if missing.name not in ("fastapi", "uvicorn", "starlette"):
        raise
    raise UsageError(f"serving needs {missing.name}", hint='pip install "longcat-cli[serve]"') from None

from longcat.stages.device import Device, Dtype
from longcat.stages.inference.loading import load_engine
from longcat.stages.inference.options import EngineOptions
from longcat.stages.serve import listen
from longcat.stages.serve.auth import KEY_VARIABLE, checked_key, gather_keys
from longcat.stages.serve.hosts import ANY, served_hosts
from longcat.stages.serve.settings import ServerSettings

logger = logging.getLogger(__name__)
HEADER_BYTES = 64 << 10


@dataclass(frozen=True)
class Door:
    """Where a server listens and whom it lets in.

    `uds`, if given, is a Unix socket instead of `host` and `port`; port 0 picks a free one. `api_keys` and the lines of
    `key_file` are the keys that clients may send, by default the one in the environment variable LONGCAT_API_KEY;
    without any the server is open to everyone who can reach it. It accepts requests for `host`, loopback names and
    `allowed_hosts`; see `stages.serve.hosts`. Whoever sends one of `admin_keys` may swap the model.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    uds: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    api_keys: Sequence[str] = ()
    key_file: Path | None = None
    admin_keys: Sequence[str] = ()
    allowed_hosts: Sequence[str] = ()

    def open(self) -> socket.socket:
        """Listen; see `stages.serve.listen`."""
        return listen.bind_uds(self.uds) if self.uds is not None else listen.bind(self.host, self.port)

    def hosts(self, listener: socket.socket) -> tuple[str, ...]:
        """Names in Host headers that are answered."""
        if self.uds is not None and not self.allowed_hosts:
            # A web page cannot reach the socket, and its clients write any name.
            return (ANY,)
        bound = [] if self.uds is not None else [self.host, listener.getsockname()[0]]
        return served_hosts(bound, self.allowed_hosts)


def serve(
    checkpoint: Path,
    door: Door | None = None,
    *,
    values: Mapping[str, Any] | None = None,
    engine_values: Mapping[str, Any] | None = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
    on_ready: Callable[[str], None] | None = None,
    resolve: Callable[[str], Path] = Path,
) -> None:
    """Serve a checkpoint folder until SIGTERM or SIGINT, then let running requests finish.

    `values` and `engine_values` are those of `ServerSettings` and `EngineOptions` that differ from the defaults;
    `model_name` is the folder's name by default.
    `on_ready` is called with the address once requests are accepted. `resolve` finds the folder of a checkpoint that
    takes over later (`stages.serve.model_swap`).

    Raises:
        UsageError: the extra `serve` is not installed, or a key or an allowed host is invalid.
        ConfigError: a value of the settings is invalid.
        InputError: the checkpoint cannot be loaded, or the address cannot be bound.
    """
    door = door or Door()
    keys = gather_keys(door.api_keys, door.key_file)
    admin_keys = [checked_key(key, "--admin-key") for key in door.admin_keys]
    tls = listen.tls_context(door.tls_cert, door.tls_key)
    listener = door.open()
    try:
        fixed = {"api_keys": keys, "allowed_hosts": door.hosts(listener)}
        named = {"model_name": checkpoint.resolve().name, **(values or {}), **fixed}
        settings = build_config(ServerSettings, named, "serve")
        engine_options = build_config(EngineOptions, dict(engine_values or {}), "engine")
        if not keys and not listen.is_local(listener):
            logger.warning("serving beyond this machine without a key; set %s or --api-key", KEY_VARIABLE)
        load = partial(
            load_engine, device=device, dtype=dtype, threads=threads, progress=progress, options=engine_options
        )
        admin = Admin(admin_keys, resolve, load) if admin_keys else None
        app = create_app(load(checkpoint), settings, admin=admin)
        config = uvicorn_config(app, settings, tls)
        server = DrainingServer(config, service=app.state.service, drain=settings.drain, on_ready=on_ready)
        server.run(sockets=[listener])
    finally:
        listen.close(listener, door.uds)


def uvicorn_config(app: object, settings: ServerSettings, tls: ssl.SSLContext | None = None) -> uvicorn.Config:
    """uvicorn configuration; it logs through `logging`, never to stdout."""
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol_factory(settings.connections),  # type: ignore[arg-type]
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=settings.connections.idle_seconds,
        h11_max_incomplete_event_size=HEADER_BYTES,
        ssl_context_factory=(lambda *_: tls) if tls is not None else None,
    )
