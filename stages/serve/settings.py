"""What the server allows: every bound a request can meet, in one place."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from longcat.pipeline.config import StageConfig

# Bounds that belong to the protocol: no checkpoint or machine makes larger values useful.
MAX_CHOICES = 16
MAX_PROMPTS = 128
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_TOP_LOGPROBS = 20
MAX_LOGIT_BIAS = 300
MAX_MESSAGES = 1024
MAX_TOKENS = 2**31 - 1


class ServerSettings(StageConfig):
    """Limits and identity of one server."""

    model_name: str = Field(description="name the server answers to, in `model`", min_length=1, max_length=256)
    api_key: str | None = Field(
        None, description="key that /v1 asks for as a bearer token; none: open", min_length=1, repr=False
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="hosts of the Host header that are answered beside those of loopback; * for any"
    )
    max_queue: int = Field(32, description="requests that may wait for the decode worker", ge=0, le=100_000)
    max_body_bytes: int = Field(4 << 20, description="size of a request body, bytes", ge=1024)
    body_seconds: float = Field(30.0, description="time a client has to send its body, seconds", gt=0)
    request_seconds: float = Field(600.0, description="time a request may take, waiting included, seconds", gt=0)
    drain_seconds: float = Field(60.0, description="time running requests have to end at a shutdown, seconds", ge=0)
    max_request_choices: int = Field(128, description="prompts times n of one request", ge=1)
    completion_tokens: int = Field(16, description="max_tokens of a completion that names none, tokens", ge=1)
    chat_tokens: int = Field(1024, description="max_tokens of a chat that names none, tokens", ge=1)
    retry_seconds: Annotated[int, Field(ge=1)] = Field(1, description="Retry-After when the queue is full, seconds")
