"""Requests for the engine and the events of their answers; no HTTP, no threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from longcat.stages.inference.continuation import Delta
from longcat.stages.inference.sampling import SamplingParams, TokenLogprobs


class CancelledError(Exception):
    """The computation was cancelled by its caller."""


class QueueFullError(Exception):
    """The queue is full."""


class ClosedError(Exception):
    """The engine accepts no more jobs."""


class DeadlineError(Exception):
    """The job exceeded its deadline."""


@dataclass(frozen=True)
class PromptStarted:
    """Prompt `prompt` is computed; its first `cached_tokens` tokens were in the prefix cache."""

    prompt: int
    cached_tokens: int


@dataclass(frozen=True)
class PromptScores:
    """Log-probabilities of the tokens of prompt `prompt`, from the job's `score_from` on."""

    prompt: int
    logprobs: list[TokenLogprobs]


@dataclass(frozen=True)
class PromptDelta:
    """One step of a continuation of prompt `prompt`."""

    prompt: int
    delta: Delta


@dataclass(frozen=True)
class Finished:
    """The last event of every job; `error` says why it ended early."""

    error: Exception | None = None


Event = PromptStarted | PromptScores | PromptDelta | Finished


@dataclass(eq=False)
class Job:
    """Job of one request: every prompt is continued `choices` times. Events go to `emit`, on the engine's thread.

    If `score_top` is not None, the log-probabilities of the prompts' tokens from index `score_from` on come first, with
    that many most likely tokens. `deadline` is a value of `time.monotonic()`. `key` is the client, an API key's name or
    an address: the requests of different clients get equal shares.
    """

    prompts: Sequence[Sequence[int]]
    params: SamplingParams
    emit: Callable[[Event], None]
    deadline: float
    choices: int = 1
    score_top: int | None = None
    score_from: int = 0
    key: str = ""
    submitted: float = field(default_factory=time.monotonic)
    cancelled: threading.Event = field(default_factory=threading.Event)
