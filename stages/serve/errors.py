"""Errors of the HTTP interface, in OpenAI's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Scope

INVALID = "invalid_request_error"


class ApiError(Exception):
    """Error response: an HTTP status and OpenAI's error object."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def response(self, scope: Scope, *, close: bool = False) -> JSONResponse:
        """The response for an ASGI scope, where `Observe` finds the error. `close` ends the connection after it."""
        scope.setdefault("state", {})["refusal"] = self
        headers = {**self.headers, "Connection": "close"} if close else self.headers
        return JSONResponse(self.body(), self.status, headers)


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """An invalid request."""
    return ApiError(400, message, param=param, code=code)


def too_busy(retry_seconds: int) -> ApiError:
    """The queue is full; the client may retry."""
    return ApiError(
        429,
        "the request queue is full, try again later",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(retry_seconds)},
    )


def unavailable(message: str) -> ApiError:
    """The server is shutting down or its worker has died."""
    return ApiError(503, message, kind="server_error", code="unavailable", headers={"Retry-After": "5"})


def internal_error() -> ApiError:
    """Internal error; details are in the server's log, not in the response."""
    return ApiError(500, "internal server error, see the server's log", kind="server_error", code="internal_error")
