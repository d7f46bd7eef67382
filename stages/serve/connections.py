"""Connections of a server: limits on their number and on the time a client may take, which uvicorn does not have.

A connection is idle while no request of it is running. Where there is no room for a new one, the oldest idle one is
closed; if none is idle, the new one is answered 503, except for the routes that say how the server is.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from longcat.stages.serve.errors import ApiError, invalid, unavailable
from longcat.stages.serve.settings import ConnectionLimits

OPEN_ROUTES = frozenset({"/health", "/ready"})


class Connections:
    """The open connections, oldest first, in all and by address."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        # Dictionaries keep the order of arrival and find a connection at once.
        self._all: dict[DoorProtocol, None] = {}
        self._by_address: defaultdict[str, dict[DoorProtocol, None]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: DoorProtocol, address: str) -> bool:
        """Add a connection; whether there is room for it, possibly after an idle one was closed."""
        shares = [(self._all, self.limits.total)]
        if address:
            shares.append((self._by_address[address], self.limits.per_address))
        # Both are asked, whatever the first one answers.
        room = False not in [self._make_room(known, limit) for known, limit in shares]
        for known, _ in shares:
            known[connection] = None
        return room

    @staticmethod
    def _make_room(known: dict[DoorProtocol, None], limit: int) -> bool:
        if not limit or len(known) < limit:
            return True
        idle = next((connection for connection in known if connection.is_idle), None)
        if idle is None:
            return False
        # `connection_lost` comes in a later turn of the loop, and the place is free from now on.
        idle.forget()
        idle.transport.abort()
        return True

    def remove(self, connection: DoorProtocol, address: str) -> None:
        """Remove a connection; no effect if it was removed before."""
        self._all.pop(connection, None)
        if address in self._by_address:
            self._by_address[address].pop(connection, None)
            if not self._by_address[address]:
                del self._by_address[address]


class DoorProtocol(H11Protocol):
    """HTTP/1.1 by h11, with time limits for the head of a request and for a client that does not read."""

    def __init__(
        self,
        known: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._known = known
        self._address = ""
        self._head_timer = _Timer(self.loop, known.limits.header_seconds, self._head_is_late)
        self._write_timer = _Timer(self.loop, known.limits.write_seconds, self._abort)

    @property
    def is_idle(self) -> bool:
        """Whether no request is running: none has arrived completely, or the last one is answered."""
        return self.cycle is None or self.cycle.response_complete

    def forget(self) -> None:
        """Stop counting this connection."""
        self._known.remove(self, self._address)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._address = self.client[0] if self.client else ""
        if not self._known.add(self, self._address):
            self.app = cast(Any, _OnlyOpenRoutes(cast(ASGIApp, self.app)))
        self._head_timer.start()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        self._head_timer.stop()
        self._write_timer.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_idle:
            self._head_timer.start()
        super().data_received(data)

    def handle_events(self) -> None:
        super().handle_events()
        if not self.is_idle:
            self._head_timer.stop()

    def _abort(self) -> None:
        self.transport.abort()

    def _head_is_late(self) -> None:
        if self.transport.is_closing() or not self.is_idle:
            return
        begun = bool(self.conn.trailing_data[0])
        if begun and self.conn.our_state is h11.IDLE:
            limit = self._known.limits.header_seconds
            self._refuse(ApiError(408, f"the request did not arrive within {limit:g} s", code="timeout"))
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_timer.start()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_timer.stop()

    def send_400_response(self, msg: str) -> None:
        self._refuse(invalid("the request is not valid HTTP", code="invalid_http"))

    def _refuse(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers.append((b"connection", b"close"))
        try:
            events = (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
            self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        except h11.LocalProtocolError:
            pass  # an answer has begun, and cannot be replaced
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """uvicorn would tell the operator to install a library for each such request."""


class _Timer:
    """A call in the future that can be given up."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, call: Callable[[], None]) -> None:
        self._loop, self._seconds, self._call = loop, seconds, call
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start it, unless it runs already."""
        if self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._fire)

    def stop(self) -> None:
        """Stop it; no effect if it does not run."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._call()


class _OnlyOpenRoutes:
    """ASGI application of a connection for which there is no room."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in OPEN_ROUTES:
            await self._app(scope, receive, send)
            return
        await unavailable("there are too many connections").response(scope, close=True)(scope, receive, send)


def protocol_factory(limits: ConnectionLimits) -> Callable[..., asyncio.Protocol]:
    """`http` of a uvicorn configuration: makes the protocol of each connection."""
    known = Connections(limits)

    def make(**given: Any) -> asyncio.Protocol:
        return DoorProtocol(known, **given)

    return make
