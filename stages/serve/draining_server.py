"""uvicorn with an orderly end: announced, drained, and without a traceback if it is cut short."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

import uvicorn

from longcat.stages.serve import listen
from longcat.stages.serve.settings import Drain

logger = logging.getLogger(__name__)
POLL_SECONDS = 0.05
# For the last words of requests that are cut short.
FAREWELL_SECONDS = 2.0
HANDSHAKE_SECONDS = 15.0


class Drained(Protocol):
    """What a server tells its application at the end."""

    def drain(self) -> None:
        """Answer new requests with 503; running ones continue."""

    def abort(self) -> int:
        """End the running requests with an error; returns their number."""


class DrainingServer(uvicorn.Server):
    """Server that exits successfully after a signal.

    SIGTERM: new requests are answered 503 for `announce_seconds`, so that a load balancer can notice; then nothing new
    is accepted, and running requests have `seconds` to finish. SIGINT skips the announcement. A second signal ends the
    running requests with an error.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        service: Drained,
        drain: Drain,
        on_ready: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._drain = drain
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closes_at: float | None = None
        self._aborted_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Like uvicorn's for open sockets, with a time limit for the TLS handshake."""
        self._loop = asyncio.get_running_loop()
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            raise SystemExit(1)
        tls: dict[str, Any] = {}
        if self.config.ssl is not None:
            tls = {"ssl": self.config.ssl, "ssl_handshake_timeout": HANDSHAKE_SECONDS}
        self.servers = [
            await self._loop.create_server(self._new_protocol, sock=listener, backlog=listen.BACKLOG, **tls)
            for listener in sockets or []
        ]
        self.started = True
        for listener in sockets or []:
            address = listen.url_of(listener, tls=bool(tls))
            logger.debug("serving at %s", address)
            if self._on_ready is not None:
                self._on_ready(address)

    def _new_protocol(self) -> asyncio.Protocol:
        make: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def on_tick(self, counter: int) -> bool:
        if self._closes_at is not None and time.monotonic() >= self._closes_at:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nothing more, wait for the running requests, and close."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._wait_for_requests()
        await self._end_requests()
        await self.lifespan.shutdown()

    async def _wait_for_requests(self) -> None:
        deadline = time.monotonic() + self._drain.seconds
        while self.server_state.tasks:
            now = time.monotonic()
            if self._aborted_at is None and now >= deadline:
                self._abort("they did not finish in time")
            if self._aborted_at is not None and now >= self._aborted_at + FAREWELL_SECONDS:
                return
            await asyncio.sleep(POLL_SECONDS)

    async def _end_requests(self) -> None:
        # A request that still runs is not listening; uvicorn would log its end as a failure of the application.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL + 1)
        left = list(self.server_state.tasks)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def _abort(self, reason: str) -> None:
        self._aborted_at = time.monotonic()
        logger.warning("requests that are ended: %d (%s)", self._service.abort(), reason)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Like uvicorn's, but without re-raising the signal: a drained server has succeeded."""
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
        """Called in a signal handler, between any two instructions: the loop does the work."""
        if self._loop is None or self._loop.is_closed():
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._on_signal, sig)

    def _on_signal(self, number: int) -> None:
        if self._closes_at is None:
            announced = self._drain.announce_seconds if number == signal.SIGTERM else 0
            self._service.drain()
            self._closes_at = time.monotonic() + announced
        elif self._aborted_at is None:
            self.should_exit = True
            self._abort("a second signal")
