"""Around every request: an id that client and log share, what the metrics say about it, and the last resort."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longcat.stages.serve.errors import internal_error
from longcat.stages.serve.metrics import ServerMetrics

logger = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"


class Observe:
    """ASGI middleware: echoes `X-Request-Id` (or makes one) and counts answers by route and status.

    What no handler caught becomes a 500 that tells nothing but the id under which the log has the traceback.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = _request_id(scope["headers"])
        scope.setdefault("state", {})["request_id"] = identifier.decode()
        started = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (HEADER, identifier)]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", identifier.decode())
            if not status:
                answer = internal_error()
                await JSONResponse(answer.body(), answer.status)(scope, receive, send_with_id)
        finally:
            self._metrics.requests.add(1, _route(scope), str(status or 499))
            self._metrics.request_seconds.observe(time.monotonic() - started)


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == HEADER), b"")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _route(scope: Scope) -> str:
    """The path of the route that answered, so that unknown paths cannot make unbounded labels."""
    return getattr(scope.get("route"), "path", "none")
