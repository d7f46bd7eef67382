"""Server-sent events of a streamed answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

# An event is one token with its log-probabilities at most; usage is smaller.
MAX_EVENT_BYTES = 1 << 20


class BrokenStreamError(Exception):
    """The body of a streamed answer is not what was asked for."""


async def read_events(body: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON object of every `data:` line until `[DONE]`, as soon as the line is complete.

    Raises:
        BrokenStreamError: a line is too long or not a JSON object, or the stream ends before `[DONE]`.
    """
    rest = b""
    async for part in body:
        *lines, rest = (rest + part).split(b"\n")
        if len(rest) > MAX_EVENT_BYTES:
            raise BrokenStreamError(f"a line of more than {MAX_EVENT_BYTES} bytes")
        for line in lines:
            data = line.strip()
            if data.startswith(b"data:"):
                data = data[5:].strip()
                if data == b"[DONE]":
                    return
                yield _parse(data)
    raise BrokenStreamError("the stream ended before [DONE]")


def _parse(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        raise BrokenStreamError("an event is not a JSON object")
    return event
