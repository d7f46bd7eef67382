"""Server-sent events: one `data:` line an event, `[DONE]` at the end, the job cancelled when nobody listens."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from longcat.stages.serve.errors import ApiError, internal_error
from longcat.stages.serve.submission import Submission

logger = logging.getLogger(__name__)


def encode(chunk: BaseModel, *, with_usage: bool) -> bytes:
    """One event; `usage` is there, possibly null, only for a client that asked for it."""
    return b"data: " + chunk.model_dump_json(exclude=None if with_usage else {"usage"}).encode() + b"\n\n"


class EventStream(Response):
    """Sends events as they come. Once begun, an error can only be one more event."""

    media_type = "text/event-stream"

    def __init__(self, submission: Submission, events: AsyncIterator[bytes]) -> None:
        # X-Accel-Buffering keeps nginx from holding events back.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._submission = submission
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._submission.watched(receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for event in self._guarded(scope):
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _guarded(self, scope: Scope) -> AsyncIterator[bytes]:
        try:
            async for event in self._events:
                yield event
        except ApiError as error:
            scope["state"]["refusal"] = error
            yield _error_event(error)
        except Exception:
            logger.exception("a stream failed")
            scope["state"]["refusal"] = internal_error()
            yield _error_event(internal_error())
        yield b"data: [DONE]\n\n"


def _error_event(error: ApiError) -> bytes:
    return b"data: " + json.dumps(error.body()).encode() + b"\n\n"
