"""`POST /v1/completions`: complete or streamed responses."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from longcat.stages.inference.continuation import TokenEntry
from longcat.stages.inference.detokenize import TextStream
from longcat.stages.inference.jobs import PromptDelta, PromptScores
from longcat.stages.inference.sampling import TokenLogprobs
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.serve.answer_bodies import Completion, CompletionChoice, LegacyLogprobs
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.protocol import CompletionRequest
from longcat.stages.serve.stream import encode
from longcat.stages.serve.submission import Submission
from longcat.stages.serve.token_count import TokenCount


@dataclass
class CompletionRun:
    """State of one request. Choices are numbered prompt by prompt, as in OpenAI's API."""

    id: str
    created: int
    request: CompletionRequest
    tokenizer: EngineTokenizer
    count: TokenCount
    plan: GenerationRequest
    _prompts: dict[int, CompletionChoice] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)

    async def collect(self, submission: Submission) -> Completion:
        """The complete response."""
        choices: dict[int, CompletionChoice] = {}
        async for part in self.parts(submission):
            known = choices.setdefault(part.index, part)
            if known is not part:
                known.text += part.text
                known.finish_reason = part.finish_reason
                known.expert_counts = _joined(known.expert_counts, part.expert_counts)
                _extend(known.logprobs, part.logprobs)
        return self._answer([choices[index] for index in sorted(choices)], with_usage=True)

    async def stream(self, submission: Submission) -> AsyncIterator[bytes]:
        """The response as events."""
        always, at_end = self.request.usage_always, self.request.with_usage
        async for part in self.parts(submission):
            if part.text or part.finish_reason or part.expert_counts or (part.logprobs and part.logprobs.tokens):
                yield encode(self._answer([part], with_usage=always), with_usage=at_end)
        if at_end:
            yield encode(self._answer([], with_usage=True), with_usage=True)

    async def parts(self, submission: Submission) -> AsyncIterator[CompletionChoice]:
        """Yield every delta of every choice; an echoed prompt is in the first delta of each of its choices."""
        async for event in submission.events():
            if isinstance(event, PromptScores):
                self._prompts[event.prompt] = self._echo(event.prompt, event.logprobs)
            elif isinstance(event, PromptDelta):
                yield self._part(event)

    def _part(self, event: PromptDelta) -> CompletionChoice:
        delta = event.delta
        index = event.prompt * self.request.n + delta.choice
        logprobs = self._logprobs(delta.entries, len(self._prompt(event.prompt).text))
        part = CompletionChoice(index=index, text=delta.text, logprobs=logprobs, finish_reason=delta.finish_reason)
        part.expert_counts = list(delta.expert_counts) if self.request.return_expert_counts else None
        if index not in self._begun:
            self._begun.add(index)
            prompt = self._prompt(event.prompt).model_copy(deep=True)
            part.text = prompt.text + part.text
            if prompt.logprobs is not None:
                _extend(prompt.logprobs, part.logprobs)
                part.logprobs = prompt.logprobs
        return part

    def _prompt(self, number: int) -> CompletionChoice:
        """Echo of a prompt: nothing, its text, or its text with log-probabilities."""
        if number not in self._prompts:
            text = self._prompt_text(number) if self.request.echo else ""
            self._prompts[number] = CompletionChoice(index=0, text=text)
        return self._prompts[number]

    def _prompt_text(self, number: int) -> str:
        given = self.request.prompt[number]
        return given if isinstance(given, str) else self.tokenizer.literal_text(given)

    def _echo(self, number: int, logprobs: list[TokenLogprobs]) -> CompletionChoice:
        stream = TextStream(self.tokenizer.literal_bytes)
        entries = []
        for position in logprobs:
            entries.append(TokenEntry(position, stream.decoded))
            stream.push(position.token_id)
        return CompletionChoice(index=0, text=self._prompt_text(number), logprobs=self._logprobs(entries, 0))

    def _logprobs(self, entries: Iterable[TokenEntry], offset: int) -> LegacyLogprobs | None:
        if self.request.logprobs is None:
            return None
        result = LegacyLogprobs()
        for entry in entries:
            found = entry.logprobs
            name = self.tokenizer.token_name
            # OpenAI adds the chosen token to the most likely ones; the first token of a prompt has neither.
            top = (
                None
                if found.logprob is None
                else {name(i): p for i, p in (*found.top, (found.token_id, found.logprob))}
            )
            result.tokens.append(name(found.token_id))
            result.token_logprobs.append(found.logprob)
            result.top_logprobs.append(top)
            result.text_offset.append(offset + entry.offset)
        return result

    def _answer(self, choices: list[CompletionChoice], *, with_usage: bool) -> Completion:
        usage = self.count.usage if with_usage else None
        return Completion(id=self.id, created=self.created, model=self.request.model, choices=choices, usage=usage)


def _extend(logprobs: LegacyLogprobs | None, more: LegacyLogprobs | None) -> None:
    if logprobs is not None and more is not None:
        logprobs.tokens += more.tokens
        logprobs.token_logprobs += more.token_logprobs
        logprobs.top_logprobs += more.top_logprobs
        logprobs.text_offset += more.text_offset


def _joined(counts: list[tuple[int, ...]] | None, more: list[tuple[int, ...]] | None) -> list[tuple[int, ...]] | None:
    return None if counts is None else counts + (more or [])
