"""Request bodies: read within bounds of size and time, parsed once, validated into a protocol model."""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.settings import ServerSettings

M = TypeVar("M", bound=BaseModel)
MAX_OBJECT_KEYS = 1024
MAX_REASON = 300


async def read_request(request: Request, kind: type[M], settings: ServerSettings) -> M:
    """The body of `request` as `kind`.

    Raises:
        ApiError: 400 not JSON or not valid, 408 too slow, 413 too large, 415 not declared as JSON.
    """
    _check_headers(request, settings)
    try:
        async with asyncio.timeout(settings.body_seconds):
            data = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {settings.body_seconds:g} s", code="timeout") from None
    return validate(kind, parse(data))


def _check_headers(request: Request, settings: ServerSettings) -> None:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        # A web page may send other types across origins without asking; JSON makes the browser ask first.
        raise ApiError(415, "send the header Content-Type: application/json", code="unsupported_media_type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > settings.max_body_bytes):
        raise _too_large(settings.max_body_bytes)


async def _read(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit:
            raise _too_large(limit)
    return bytes(data)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")


def parse(data: bytes) -> dict[str, Any]:
    """A JSON object: no NaN, no repeated keys, no object of more than `MAX_OBJECT_KEYS` keys, no endless nesting.

    Raises:
        ApiError: 400 with the reason.
    """
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {_reason(error)}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return value


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:MAX_REASON]


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Bounded here, because pydantic would build one error for each unknown key.
    if len(pairs) > MAX_OBJECT_KEYS:
        raise ValueError(f"an object has {len(pairs)} keys, at most {MAX_OBJECT_KEYS} are taken")
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def validate(kind: type[M], value: dict[str, Any]) -> M:
    """Validate as a protocol model.

    Raises:
        ApiError: 400 naming the first offending field.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:MAX_REASON] or None
    if first["type"] == "extra_forbidden":
        raise invalid(f"unknown or unsupported field {param!r}", param=param, code="unknown_field")
    message = first["msg"].removeprefix("Value error, ")[:MAX_REASON]
    raise invalid(f"{param}: {message}" if param else message, param=param, code="invalid_value")
