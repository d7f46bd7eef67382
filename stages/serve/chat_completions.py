"""`POST /v1/chat/completions`: from a request to messages, all at once or as a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from longcat.stages.serve.engine import Delta, TokenEntry
from longcat.stages.serve.protocol import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    ChatRequest,
    TopLogprob,
    Usage,
)
from longcat.stages.serve.stream import encode
from longcat.stages.serve.submission import Submission
from longcat.stages.serve.tokenizer import EngineTokenizer
from longcat.stages.serve.worker import PromptDelta


@dataclass
class ChatRun:
    """One request being answered."""

    id: str
    created: int
    request: ChatRequest
    tokenizer: EngineTokenizer
    completion_tokens: int = 0
    _begun: set[int] = field(default_factory=set)

    async def collect(self, submission: Submission) -> ChatCompletion:
        """The whole answer."""
        choices: dict[int, ChatChoice] = {}
        async for delta in self._deltas(submission):
            choice = choices.setdefault(delta.choice, self._empty_choice(delta.choice))
            choice.message.content += delta.text
            choice.finish_reason = delta.finish_reason
            if choice.logprobs is not None:
                choice.logprobs.content += self._entries(delta.entries)
        return ChatCompletion(
            id=self.id,
            created=self.created,
            model=self.request.model,
            choices=[choices[index] for index in sorted(choices)],
            usage=self._usage(submission),
        )

    async def stream(self, submission: Submission) -> AsyncIterator[bytes]:
        """The answer as events: for each choice its role, its pieces, its finish reason."""
        with_usage = self.request.include_usage
        async for delta in self._deltas(submission):
            for choice in self._chunk_choices(delta):
                yield encode(self._chunk([choice]), with_usage=with_usage)
        if with_usage:
            chunk = self._chunk([]).model_copy(update={"usage": self._usage(submission)})
            yield encode(chunk, with_usage=True)

    async def _deltas(self, submission: Submission) -> AsyncIterator[Delta]:
        async for event in submission.events():
            if isinstance(event, PromptDelta):
                self.completion_tokens += len(event.delta.token_ids)
                yield event.delta

    def _chunk_choices(self, delta: Delta) -> list[ChatChunkChoice]:
        result = []
        if delta.choice not in self._begun:
            self._begun.add(delta.choice)
            result.append(ChatChunkChoice(index=delta.choice, delta=ChatDelta(role="assistant", content="")))
        if delta.text or delta.entries:
            logprobs = ChatLogprobs(content=self._entries(delta.entries)) if self.request.logprobs else None
            piece = ChatDelta(content=delta.text)
            result.append(ChatChunkChoice(index=delta.choice, delta=piece, logprobs=logprobs))
        if delta.finish_reason is not None:
            end = ChatChunkChoice(index=delta.choice, delta=ChatDelta(), finish_reason=delta.finish_reason)
            result.append(end)
        return result

    def _empty_choice(self, index: int) -> ChatChoice:
        logprobs = ChatLogprobs() if self.request.logprobs else None
        return ChatChoice(index=index, message=ChatMessage(content=""), logprobs=logprobs)

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

    def _chunk(self, choices: list[ChatChunkChoice]) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.request.model, choices=choices)

    def _usage(self, submission: Submission) -> Usage:
        prompt, new = submission.prompt_tokens, self.completion_tokens
        return Usage(prompt_tokens=prompt, completion_tokens=new, total_tokens=prompt + new)
