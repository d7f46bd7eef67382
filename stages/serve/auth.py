"""The optional key of a server, compared without telling how much of a guess was right."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Awaitable, Callable

from starlette.requests import Request

from longcat.stages.serve.errors import ApiError


def key_check(key: str | None) -> Callable[[Request], Awaitable[None]]:
    """A dependency that lets requests through which bear `key`, or all of them when there is none."""
    expected = _digest(key) if key else None

    async def check(request: Request) -> None:
        if expected is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        # Digests have one length, so the comparison tells nothing about the key's.
        if scheme.lower() != "bearer" or not hmac.compare_digest(_digest(given.strip()), expected):
            raise ApiError(
                401,
                "a valid key is needed: Authorization: Bearer KEY",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return check


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
