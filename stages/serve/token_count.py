"""Tokens of one request and their times, counted while its events pass."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from longcat.stages.inference.jobs import Event, PromptDelta, PromptStarted
from longcat.stages.serve.answer_bodies import CompletionTokensDetails, PromptTokensDetails, Usage


@dataclass
class TokenCount:
    """Tokens of the prompts (`prompts`: of each), of them those begun and those found in the prefix cache; tokens
    generated so far, of them those of thoughts (`reasoning`); drafts, and those of them accepted; when the job, its
    first and its last token came (`time.monotonic()`).
    """

    prompts: Sequence[int] = ()
    started: int = 0
    cached: int = 0
    completion: int = 0
    drafted: int = 0
    accepted: int = 0
    reasoning: int = 0
    began_at: float = field(default_factory=time.monotonic)
    first_at: float | None = None
    last_at: float | None = None
    finish_reasons: list[str] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count the tokens of an event."""
        if isinstance(event, PromptStarted):
            self.started += self.prompts[event.prompt]
            self.cached += event.cached_tokens
        elif isinstance(event, PromptDelta):
            self._add_tokens(len(event.delta.token_ids))
            self.drafted += event.delta.drafted
            self.accepted += event.delta.accepted
            if event.delta.finish_reason is not None:
                self.finish_reasons.append(event.delta.finish_reason)

    def _add_tokens(self, number: int) -> None:
        if number:
            self.completion += number
            self.last_at = time.monotonic()
            self.first_at = self.last_at if self.first_at is None else self.first_at

    @property
    def prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(self.prompts)

    @property
    def token_seconds(self) -> float | None:
        """Mean time per token after the first, seconds; None with fewer than two tokens."""
        if self.completion < 2 or self.first_at is None or self.last_at is None:
            return None
        return (self.last_at - self.first_at) / (self.completion - 1)

    @property
    def usage(self) -> Usage:
        """The count in OpenAI's form."""
        return Usage(
            prompt_tokens=self.prompt,
            completion_tokens=self.completion,
            total_tokens=self.prompt + self.completion,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=self.cached),
            completion_tokens_details=CompletionTokensDetails(
                accepted_prediction_tokens=self.accepted,
                rejected_prediction_tokens=self.drafted - self.accepted,
                reasoning_tokens=self.reasoning,
            ),
        )
