"""The parts of a chat's answers, choice by choice, as they come."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from longcat.stages.inference.answers import AnswerParser, AnswerPart
from longcat.stages.inference.continuation import TokenEntry
from longcat.stages.inference.jobs import PromptDelta
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.serve.answer_bodies import FinishReason
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.submission import Submission


@dataclass(frozen=True)
class AnswerStep:
    """What one step added to answer `choice`; `begins` in its first step."""

    choice: int
    begins: bool
    parts: tuple[AnswerPart, ...]
    entries: tuple[TokenEntry, ...]
    finish_reason: FinishReason | None
    expert_counts: tuple[tuple[int, ...], ...]


def new_call_id() -> str:
    """Id of a tool call."""
    return f"call_{uuid.uuid4().hex[:24]}"


class ThoughtTokens:
    """Counts the tokens of one answer's thoughts, with their tags."""

    def __init__(self, tokenizer: EngineTokenizer, *, inside: bool) -> None:
        """`inside`: the prompt ends inside a thought."""
        self._tags, self._inside = tokenizer.thought_tags, inside

    def add(self, token_ids: Iterable[int]) -> int:
        """How many of the next tokens belong to thoughts."""
        begin, end = self._tags
        number = 0
        for token in token_ids:
            self._inside = self._inside or token == begin
            number += self._inside
            self._inside = self._inside and token != end
        return number


async def answer_steps(
    submission: Submission, plan: GenerationRequest, tokenizer: EngineTokenizer, *, stream: bool
) -> AsyncIterator[AnswerStep]:
    """Parse the answers of a chat; parts without anything to show are left out.

    Raises:
        ApiError: see `Submission.events`.
    """
    parsers: dict[int, AnswerParser] = {}
    thoughts: dict[int, ThoughtTokens] = {}
    async for event in submission.events():
        if not isinstance(event, PromptDelta):
            continue
        delta = event.delta
        begins = delta.choice not in parsers
        if begins:
            parsers[delta.choice] = AnswerParser(thinking=plan.thinking, calls=plan.calls, stream=stream)
            thoughts[delta.choice] = ThoughtTokens(tokenizer, inside=plan.thinking)
        submission.count.reasoning += thoughts[delta.choice].add(delta.token_ids)
        parser = parsers[delta.choice]
        parts = parser.push(delta.text)
        reason: FinishReason | None = delta.finish_reason
        if reason is not None:
            parts += parser.finish()
            reason = "tool_calls" if parser.called and reason == "stop" else reason
        shown = tuple(part for part in parts if part.text or part.kind == "call")
        yield AnswerStep(delta.choice, begins, shown, delta.entries, reason, delta.expert_counts)
