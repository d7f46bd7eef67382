"""Request bodies: read with limits on size and time, parsed once, validated as a protocol model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from longcat.pipeline.validation import UNKNOWN, problems_of
from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.protocol import why_refused
from longcat.stages.serve.settings import RequestLimits, ServerSettings

M = TypeVar("M", bound=BaseModel)
MAX_OBJECT_KEYS = 1024
MAX_REASON = 300


async def read_request(
    request: Request, kind: type[M], settings: ServerSettings, check_model: Callable[[str], None]
) -> M:
    """Read the body of `request` as `kind`. `check_model` refuses other models before the other fields are looked at.

    Raises:
        ApiError: 400 not JSON or not valid, 404 by `check_model`, 408 too slow, 413 too large, 415 not declared as
            JSON, 499 cut off.
    """
    _check_headers(request, settings)
    try:
        async with asyncio.timeout(settings.body_seconds):
            data = await _read(request, settings.max_body_bytes)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {settings.body_seconds:g} s", code="timeout") from None
    value = parse(data)
    if isinstance(value.get("model"), str):
        check_model(value["model"])
    return validate(kind, value, settings.limits)


def _check_headers(request: Request, settings: ServerSettings) -> None:
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        # Web pages may send other types cross-origin without preflight; JSON makes the browser send a preflight.
        raise ApiError(415, "send the header Content-Type: application/json", code="unsupported_media_type")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > settings.max_body_bytes):
        raise _too_large(settings.max_body_bytes)


async def _read(request: Request, limit: int) -> bytes:
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ApiError(499, "the client left before its body had arrived", code="cancelled") from None
    return bytes(data)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")


def parse(data: bytes) -> dict[str, Any]:
    """Parse a JSON object: no NaN, no duplicate keys, at most `MAX_OBJECT_KEYS` keys per object, bounded nesting.

    Raises:
        ApiError: 400 with the reason.
    """
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_build_object,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body is not valid JSON: {_reason(error)}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("the body must be a JSON object", code="invalid_json")
    return value


def _reason(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:MAX_REASON]


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Limited here, because pydantic would build one error for each unknown key.
    if len(pairs) > MAX_OBJECT_KEYS:
        raise ValueError(f"an object has {len(pairs)} keys, at most {MAX_OBJECT_KEYS} are allowed")
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _parse_float(text: str) -> float:
    # JSON has one kind of numbers, and 2.0 is an integer.
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def validate(kind: type[M], value: dict[str, Any], limits: RequestLimits) -> M:
    """Validate as a protocol model.

    Raises:
        ApiError: 400 naming the first invalid field.
    """
    try:
        return kind.model_validate(value, context=limits)
    except ValidationError as error:
        first = problems_of(error)[0]
    param = first.path[:MAX_REASON] or None
    if first.kind == UNKNOWN:
        reason = why_refused(param or "")
        message = f"{param} is not supported: {reason}" if reason else f"unknown or unsupported field {param!r}"
        raise invalid(message, param=param, code="unknown_field")
    message = first.message[:MAX_REASON]
    raise invalid(f"{param}: {message}" if param else message, param=param, code="invalid_value")
