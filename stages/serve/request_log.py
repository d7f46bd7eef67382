"""Request middleware: request ids, log lines of failed requests, metrics, and handling of uncaught errors."""

from __future__ import annotations

import json
import logging
import re
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longcat.pipeline.printable import one_line
from longcat.stages.serve.errors import ApiError, internal_error
from longcat.stages.serve.metrics import ServerMetrics
from longcat.stages.serve.token_count import TokenCount

logger = logging.getLogger(__name__)
requests_logger = logging.getLogger(f"{__name__}.requests")
REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
HEADER = b"x-request-id"
SHOWN_CHARACTERS = 500
GONE = 499


class Observe:
    """ASGI middleware: echoes `X-Request-Id` (or makes one), counts answers by route and status, logs refused requests.

    Uncaught errors become a 500 that contains only the id under which the traceback is logged.
    """

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, *, each: bool = False) -> None:
        """`each`: write a line of JSON for each request."""
        self._app = app
        self._metrics = metrics
        self._each = each
        if each:
            # Also with --quiet: the lines were asked for.
            requests_logger.setLevel(logging.INFO)

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
            seconds = time.monotonic() - started
            if self._each:
                requests_logger.info("%s", json.dumps(_line(scope, status or GONE, seconds)))
            else:
                _log_refusal(scope, status)
            self._metrics.requests.labels(_route(scope), str(status or GONE)).inc()
            self._metrics.request_seconds.observe(seconds)


def _log_refusal(scope: Scope, status: int) -> None:
    """Log one line for a request that failed, also within a started stream."""
    error: ApiError | None = scope["state"].get("refusal")
    code, message = (error.status, error.message) if error else (status, "see the lines above")
    if code >= 400:
        path = one_line(str(scope["path"])[:SHOWN_CHARACTERS])
        # Clients leave all the time, and nobody has to act on it.
        level = logging.DEBUG if code == GONE else logging.INFO
        logger.log(level, "%d %s %s: %s", code, scope["method"], path, one_line(message[:SHOWN_CHARACTERS]))


def _line(scope: Scope, status: int, seconds: float) -> dict[str, Any]:
    """What a request was and how it went; nothing that was said, by neither side."""
    state = scope["state"]
    error: ApiError | None = state.get("refusal")
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "id": state["request_id"],
        "client": state.get("client_key") or (scope["client"][0] if scope.get("client") else ""),
        "method": scope["method"],
        "route": _route(scope),
        "status": error.status if error else status,
        "seconds": round(seconds, 6),
        "error": error.code if error else None,
    }
    generation: tuple[bool, TokenCount] | None = state.get("generation")
    return line if generation is None else {**line, **_generation(*generation)}


def _generation(stream: bool, count: TokenCount) -> dict[str, Any]:
    first = None if count.first_at is None else round(count.first_at - count.began_at, 6)
    return {
        "stream": stream,
        "prompt_tokens": count.prompt,
        "cached_tokens": count.cached,
        "completion_tokens": count.completion,
        "first_token_seconds": first,
        "finish_reasons": count.finish_reasons,
    }


def _request_id(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    given = next((value for name, value in headers if name == HEADER), b"")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex.encode()


def _route(scope: Scope) -> str:
    """Path template of the route, so that unknown paths cannot create unbounded labels."""
    return getattr(scope.get("route"), "path", "none")
