"""`POST /v1/chat/completions`: complete or streamed responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from longcat.stages.inference.answers import AnswerPart
from longcat.stages.inference.continuation import TokenEntry
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.serve.answer_bodies import (
    Call,
    CallDelta,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    Function,
    FunctionDelta,
    TopLogprob,
)
from longcat.stages.serve.answer_stream import AnswerStep, answer_steps, new_call_id
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.protocol import ChatRequest
from longcat.stages.serve.stream import encode
from longcat.stages.serve.submission import Submission
from longcat.stages.serve.token_count import TokenCount


@dataclass
class ChatRun:
    """State of one request."""

    id: str
    created: int
    request: ChatRequest
    tokenizer: EngineTokenizer
    count: TokenCount
    plan: GenerationRequest

    async def collect(self, submission: Submission) -> ChatCompletion:
        """The complete response."""
        choices: dict[int, ChatChoice] = {}
        async for step in answer_steps(submission, self.plan, self.tokenizer, stream=False):
            choice = choices.setdefault(step.choice, self._empty_choice(step.choice))
            for part in step.parts:
                _add(choice.message, part)
            choice.finish_reason = step.finish_reason
            if choice.expert_counts is not None:
                choice.expert_counts += step.expert_counts
            if choice.logprobs is not None:
                choice.logprobs.content += self._entries(step.entries)
        for choice in choices.values():
            choice.message.content = choice.message.content or (None if choice.message.tool_calls else "")
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.request.model,
            choices=[choices[index] for index in sorted(choices)],
            usage=self.count.usage,
        )

    async def stream(self, submission: Submission) -> AsyncIterator[bytes]:
        """The response as events: for each choice its role, deltas of its parts and finish reason."""
        always, at_end = self.request.usage_always, self.request.with_usage
        async for step in answer_steps(submission, self.plan, self.tokenizer, stream=True):
            for choice in self._chunk_choices(step):
                yield encode(self._chunk([choice], with_usage=always), with_usage=at_end)
        if at_end:
            yield encode(self._chunk([], with_usage=True), with_usage=True)

    def _chunk_choices(self, step: AnswerStep) -> list[ChatChunkChoice]:
        deltas = [ChatDelta(role="assistant", content="")] if step.begins else []
        parts = [_delta_of(part) for part in step.parts]
        logprobs = ChatLogprobs(content=self._entries(step.entries)) if step.entries and self.request.logprobs else None
        counts = list(step.expert_counts) or None
        if not parts and (logprobs or counts):
            parts = [ChatDelta(content="")]
        result = [ChatChunkChoice(index=step.choice, delta=delta) for delta in deltas + parts]
        if parts:
            # What belongs to the tokens of a step stands at the first of its parts.
            result[len(deltas)].logprobs = logprobs
            result[len(deltas)].expert_counts = counts
        if step.finish_reason is not None:
            result.append(ChatChunkChoice(index=step.choice, delta=ChatDelta(), finish_reason=step.finish_reason))
        return result

    def _empty_choice(self, index: int) -> ChatChoice:
        logprobs = ChatLogprobs() if self.request.logprobs else None
        counts: list[tuple[int, ...]] | None = [] if self.request.return_expert_counts else None
        return ChatChoice(index=index, message=ChatMessage(content=""), logprobs=logprobs, expert_counts=counts)

    def _entries(self, entries: Iterable[TokenEntry]) -> list[ChatLogprob]:
        result = []
        for entry in entries:
            top = [self._named(token, logprob) for token, logprob in entry.logprobs.top]
            chosen = self._named(entry.logprobs.token_id, entry.logprobs.logprob or 0.0)
            result.append(ChatLogprob(**chosen.model_dump(), top_logprobs=top))
        return result

    def _named(self, token: int, logprob: float) -> TopLogprob:
        data = self.tokenizer.literal_bytes(token)
        return TopLogprob(token=data.decode("utf-8", "replace"), logprob=logprob, bytes=list(data))

    def _chunk(self, choices: list[ChatChunkChoice], *, with_usage: bool) -> ChatChunk:
        usage = self.count.usage if with_usage else None
        return ChatChunk(id=self.id, created=self.created, model=self.request.model, choices=choices, usage=usage)


def _add(message: ChatMessage, part: AnswerPart) -> None:
    if part.kind == "content":
        message.content = (message.content or "") + part.text
    elif part.kind == "reasoning":
        message.reasoning_content = (message.reasoning_content or "") + part.text
    elif part.kind == "call":
        call = Call(id=new_call_id(), function=Function(name=part.name, arguments=""))
        message.tool_calls = [*(message.tool_calls or []), call]
    elif message.tool_calls:
        message.tool_calls[part.index].function.arguments += part.text


def _delta_of(part: AnswerPart) -> ChatDelta:
    if part.kind == "content":
        return ChatDelta(content=part.text)
    if part.kind == "reasoning":
        return ChatDelta(reasoning_content=part.text)
    call = CallDelta(index=part.index, function=FunctionDelta(arguments=part.text))
    if part.kind == "call":
        call = CallDelta(index=part.index, id=new_call_id(), type="function", function=FunctionDelta(name=part.name))
    return ChatDelta(tool_calls=[call])
