"""Server-sent events; a client disconnect cancels the job, and comments keep a quiet connection open."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from longcat.stages.serve.errors import ApiError, internal_error
from longcat.stages.serve.submission import Submission

logger = logging.getLogger(__name__)
COMMENT = b": waiting\n\n"


@dataclass(frozen=True)
class StreamForm:
    """How a stream tells an error, and its last bytes."""

    error: Callable[[ApiError], bytes]
    end: bytes


def _error_chunk(error: ApiError) -> bytes:
    return b"data: " + json.dumps(error.body()).encode() + b"\n\n"


CHAT_STREAM = StreamForm(_error_chunk, b"data: [DONE]\n\n")


def encode(chunk: BaseModel, *, with_usage: bool) -> bytes:
    """Format one event; `usage` is included, possibly null, only if the client requested it."""
    return b"data: " + chunk.model_dump_json(exclude=None if with_usage else {"usage"}).encode() + b"\n\n"


class EventStream(Response):
    """Response that streams events. After the start, an error is sent as another event.

    A comment is sent where nothing else was for `comment_seconds`: proxies close connections that look dead.
    """

    media_type = "text/event-stream"

    def __init__(
        self, submission: Submission, events: AsyncIterator[bytes], form: StreamForm, comment_seconds: float
    ) -> None:
        # X-Accel-Buffering keeps nginx from buffering events.
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._submission = submission
        self._events = events
        self._form = form
        self._comment_seconds = comment_seconds
        self._sent_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._submission.watched(receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            self._sent_at = time.monotonic()
            comments = asyncio.create_task(self._comment(send))
            try:
                async for event in self._guarded(scope):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    self._sent_at = time.monotonic()
            finally:
                comments.cancel()
                with suppress(asyncio.CancelledError):
                    await comments
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _comment(self, send: Send) -> None:
        while True:
            quiet = time.monotonic() - self._sent_at
            if quiet >= self._comment_seconds:
                await send({"type": "http.response.body", "body": COMMENT, "more_body": True})
                self._sent_at = time.monotonic()
                quiet = 0
            await asyncio.sleep(self._comment_seconds - quiet)

    async def _guarded(self, scope: Scope) -> AsyncIterator[bytes]:
        try:
            async for event in self._events:
                yield event
        except ApiError as error:
            scope["state"]["refusal"] = error
            yield self._form.error(error)
        except Exception:
            logger.exception("a stream failed")
            scope["state"]["refusal"] = internal_error()
            yield self._form.error(internal_error())
        yield self._form.end
