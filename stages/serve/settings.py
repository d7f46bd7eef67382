"""Server settings: all limits on requests."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from longcat.pipeline.config import StageConfig

MAX_INTEGER = 2**31 - 1


class RequestLimits(StageConfig):
    """Limits on the fields of a request, independent of the checkpoint."""

    choices: int = Field(16, description="maximum of n", ge=1)
    prompts: int = Field(128, description="prompts of a completion", ge=1)
    prompt_choices: int = Field(128, description="maximum of prompts times n", ge=1)
    stop_strings: int = Field(16, description="stop strings, and stop tokens", ge=1)
    stop_characters: int = Field(256, description="length of a stop string, characters", ge=1)
    top_logprobs: int = Field(20, description="most likely tokens with log-probabilities", ge=0)
    logit_bias: int = Field(300, description="tokens with a bias", ge=0)
    messages: int = Field(1024, description="messages of a chat, and parts of a message", ge=1)
    tools: int = Field(128, description="tools, and calls of a message", ge=1)


class ConnectionLimits(StageConfig):
    """Limits on connections."""

    total: int = Field(1024, description="connections in all", ge=1, le=1_000_000)
    per_address: int = Field(
        256, description="connections of one address, 0 for any number (behind a proxy)", ge=0, le=1_000_000
    )
    header_seconds: float = Field(15.0, description="time limit for the head of a request, seconds", gt=0)
    idle_seconds: int = Field(30, description="time until a connection without requests is closed, seconds", ge=1)
    write_seconds: float = Field(60.0, description="time until a client that reads nothing is left, seconds", gt=0)


class Drain(StageConfig):
    """What happens at SIGTERM."""

    announce_seconds: float = Field(
        5.0, description="time in which new requests are still answered, with 503, seconds", ge=0, le=600
    )
    seconds: float = Field(60.0, description="time limit for running requests after that, seconds", ge=0)


def _checked_origin(origin: str) -> str:
    if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+", origin):
        raise ValueError("an origin is a scheme and a host, such as https://app.example, or * for any")
    return origin


_LIMITS, _CONNECTIONS = RequestLimits.model_validate({}), ConnectionLimits.model_validate({})
_DRAIN = Drain.model_validate({})


class ServerSettings(StageConfig):
    """Limits and names of one server."""

    model_name: str = Field(description="served model name, in `model`", min_length=1, max_length=256)
    api_keys: tuple[str, ...] = Field((), description="keys, one of which /v1 requires; none: open", repr=False)
    allowed_hosts: tuple[str, ...] = Field((), description="accepted Host headers besides loopback; * for any")
    page: bool = Field(True, description="serve the chat page at /")
    max_queue: int = Field(32, description="maximum number of requests that wait for the engine", ge=0, le=100_000)
    max_body_bytes: int = Field(4 << 20, description="maximum size of a request body, bytes", ge=1024)
    body_seconds: float = Field(30.0, description="time limit for receiving a body, seconds", gt=0)
    request_seconds: float = Field(600.0, description="time limit of a request, including waiting, seconds", gt=0)
    comment_seconds: float = Field(
        10.0, description="time until a stream that waits sends a comment to keep its connection, seconds", gt=0
    )
    log_requests: bool = Field(False, description="write a line of JSON for each request")
    cors_origins: tuple[Annotated[str, AfterValidator(_checked_origin)], ...] = Field(
        (), description="origins of web pages that may call this server; * for any"
    )
    limits: RequestLimits = Field(default=_LIMITS, description="limits on the fields of a request")
    connections: ConnectionLimits = Field(default=_CONNECTIONS, description="limits on connections")
    drain: Drain = Field(default=_DRAIN, description="what happens at SIGTERM")
    completion_tokens: int = Field(16, description="default max_tokens of a completion, tokens", ge=1)
    chat_tokens: int = Field(1024, description="default max_tokens of a chat, tokens", ge=1)
    retry_seconds: int = Field(1, description="Retry-After if the queue is full, seconds", ge=1)
