"""One streamed request, and when its parts arrived."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

import httpx

from longcat.pipeline.errors import UsageError
from longcat.stages.bench.serve.events import BrokenStreamError, read_events
from longcat.stages.bench.serve.options import LoadOptions

MAX_ERROR_BYTES = 4096


@dataclass
class Record:
    """One request. Times are seconds on the clock of `time.perf_counter()`.

    Args:
        planned: when it was due.
        sent: when it was sent.
        arrivals: of the chunks with generated text; of all chunks if none has text.
        ended: of the last chunk of the answer, without the one that carries only `usage`.
        usage: numbers of tokens, as the server counts them.
        error: None if the answer is complete, else an HTTP status or a word.
        detail: the error, for people.
    """

    planned: float
    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    ended: float = 0.0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    output_tokens: int | None = None
    error: str | None = None
    detail: str = ""


class Client:
    """Sends requests to one server, without a limit on connections.

    Raises:
        UsageError: the address is not one of HTTP.
    """

    def __init__(self, options: LoadOptions) -> None:
        self.options = options
        try:
            address = httpx.URL(options.base)
        except httpx.InvalidURL as error:
            raise UsageError(f"{options.url}: {error}") from error
        if address.scheme not in ("http", "https") or not address.host:
            raise UsageError(f"{options.url}: not an address of HTTP")
        headers = {"Authorization": f"Bearer {options.api_key}"} if options.api_key else {}
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        timeout = httpx.Timeout(options.timeout, connect=min(10.0, options.timeout))
        self.http = httpx.AsyncClient(headers=headers, limits=unlimited, timeout=timeout)

    def body(self, prompt: dict[str, Any], output_tokens: int) -> dict[str, Any]:
        """The request for a prompt, which is its field `prompt` or `messages`, and may have others."""
        limit = "max_completion_tokens" if self.options.api == "chat" else "max_tokens"
        return {
            "model": self.options.model,
            limit: output_tokens,
            **self.options.body,
            **prompt,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    async def send(self, body: dict[str, Any], planned: float) -> Record:
        """Send a request and read its answer; errors are recorded, not raised."""
        record = Record(planned, sent=time.perf_counter())
        try:
            async with asyncio.timeout(self.options.timeout):
                await self._exchange(body, record)
        except BrokenStreamError as error:
            record.error, record.detail = "stream", str(error)
        except (TimeoutError, httpx.TimeoutException):
            record.error, record.detail = "timeout", f"no answer within {self.options.timeout:g} s"
        except httpx.ConnectError as error:
            record.error, record.detail = "connection", str(error)
        except httpx.HTTPError as error:
            record.error, record.detail = "stream", str(error) or type(error).__name__
        return record

    async def _exchange(self, body: dict[str, Any], record: Record) -> None:
        async with self.http.stream("POST", self.options.path, json=body) as response:
            if response.status_code == 200:
                await self._read(response, record)
            else:
                record.error = str(response.status_code)
                record.detail = await _message(response)

    async def _read(self, response: httpx.Response, record: Record) -> None:
        chunks: list[float] = []
        async for event in read_events(response.aiter_bytes()):
            now = time.perf_counter()
            if "error" in event:
                raise BrokenStreamError(str(event["error"])[:MAX_ERROR_BYTES])
            _read_usage(event.get("usage"), record)
            choices = event.get("choices")
            if isinstance(choices, list) and choices:
                chunks.append(now)
                if any(has_text(choice) for choice in choices):
                    record.arrivals.append(now)
        if not chunks:
            raise BrokenStreamError("the answer has no chunks")
        record.ended = chunks[-1]
        record.arrivals = record.arrivals or chunks


def has_text(choice: Any) -> bool:
    """Whether a choice of a chunk carries something that the model generated, in any of the fields in use."""
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    fields = delta if isinstance(delta, dict) else {}
    named = (fields.get(name) for name in ("content", "reasoning_content", "reasoning", "refusal", "tool_calls"))
    return bool(choice.get("text")) or any(named)


def _read_usage(usage: Any, record: Record) -> None:
    if not isinstance(usage, dict):
        return
    details = usage.get("prompt_tokens_details")
    record.prompt_tokens = _count(usage.get("prompt_tokens"))
    record.output_tokens = _count(usage.get("completion_tokens"))
    record.cached_tokens = _count(details.get("cached_tokens")) if isinstance(details, dict) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


async def _message(response: httpx.Response) -> str:
    """The server's error message, or the beginning of the body."""
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ERROR_BYTES:
            break
    text = body[:MAX_ERROR_BYTES].decode(errors="replace")
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())
