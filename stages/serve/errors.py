"""Errors of the HTTP interface, in the shape OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An answer other than success: an HTTP status and OpenAI's error object."""

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


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that can never succeed as it stands."""
    return ApiError(400, message, param=param, code=code)


def too_busy(retry_seconds: int) -> ApiError:
    """The queue is full; the client may try again."""
    return ApiError(
        429,
        "the server has as many requests waiting as it takes, try again later",
        kind="rate_limit_error",
        code="queue_full",
        headers={"Retry-After": str(retry_seconds)},
    )


def unavailable(message: str) -> ApiError:
    """The server is going away or its worker is dead."""
    return ApiError(503, message, kind="server_error", code="unavailable", headers={"Retry-After": "5"})


def internal_error() -> ApiError:
    """Whatever went wrong is in the server's log, not in the answer."""
    return ApiError(500, "the server failed to answer, see its log", kind="server_error", code="internal_error")
