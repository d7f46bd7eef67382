"""Around every request: an id that client and log share, a line if it was refused, metrics, and the last resort."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Iterable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longcat.pipeline.printable import one_line
from longcat.stages.serve.errors import ApiError, internal_error
from longcat.stages.serve.metrics import ServerMetrics

logger = logging.getLogger(__name__)
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"
SHOWN_CHARACTERS = 500
GONE = 499


class Observe:
    """ASGI middleware: echoes `X-Request-Id` (or makes one), counts answers by route and status, logs refused requests.

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
            _log_refusal(scope, status)
            self._metrics.requests.add(1, _route(scope), str(status or 499))
            self._metrics.request_seconds.observe(time.monotonic() - started)


def _log_refusal(scope: Scope, status: int) -> None:
    """One line for a request that was answered with an error, also within a stream that had begun."""
    error: ApiError | None = scope["state"].get("refusal")
    code, message = (error.status, error.message) if error else (status, "see the lines above")
    # Of a client that left nobody needs to hear.
    if code >= 400 and code != GONE:
        path = one_line(str(scope["path"])[:SHOWN_CHARACTERS])
        logger.info("%d %s %s: %s", code, scope["method"], path, one_line(message[:SHOWN_CHARACTERS]))


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == HEADER), b"")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _route(scope: Scope) -> str:
    """The path of the route that answered, so that unknown paths cannot make unbounded labels."""
    return getattr(scope.get("route"), "path", "none")
