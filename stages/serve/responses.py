"""`POST /v1/responses`: complete or streamed responses."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from longcat.stages.inference.answers import AnswerPart
from longcat.stages.inference.tokenizer import EngineTokenizer
from longcat.stages.serve.answer_stream import answer_steps, new_call_id
from longcat.stages.serve.errors import ApiError
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.response_bodies import (
    FunctionCallItem,
    InputDetails,
    Item,
    OutputDetails,
    OutputMessage,
    OutputText,
    ReasoningItem,
    ReasoningText,
    ResponseBody,
    ResponseUsage,
)
from longcat.stages.serve.responses_protocol import ResponsesRequest
from longcat.stages.serve.stream import StreamForm
from longcat.stages.serve.submission import Submission
from longcat.stages.serve.token_count import TokenCount

Event = dict[str, Any]


def _error_event(error: ApiError) -> bytes:
    fields = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
    # The number of the event is not known here; clients do not read it of an error.
    return _encode({**fields, "sequence_number": 0})


RESPONSE_STREAM = StreamForm(_error_event, b"")


def _encode(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n".encode()


@dataclass
class ResponseRun:
    """State of one request: the response so far, whose last item may be open."""

    id: str
    created: int
    request: ResponsesRequest
    tokenizer: EngineTokenizer
    count: TokenCount
    plan: GenerationRequest
    body: ResponseBody = field(init=False)
    _numbered: int = 0

    def __post_init__(self) -> None:
        request = self.request
        self.body = ResponseBody(
            id=self.id,
            created_at=self.created,
            instructions=request.instructions,
            max_output_tokens=request.max_output_tokens,
            metadata=request.metadata,
            model=request.model,
            parallel_tool_calls=request.parallel_tool_calls,
            reasoning={"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
            temperature=request.temperature,
            text={"format": (request.text.format if request.text else None) or {"type": "text"}},
            tool_choice=request.tool_choice or "auto",
            tools=[{"description": None, "parameters": None, "strict": False, **tool} for tool in request.tools],
            top_p=request.top_p,
        )

    async def collect(self, submission: Submission) -> BaseModel:
        """The complete response."""
        async for _ in self._events(submission, stream=False):
            pass
        return self.body

    async def stream(self, submission: Submission) -> AsyncIterator[bytes]:
        """The response as events, numbered."""
        async for event in self._events(submission, stream=True):
            yield _encode({**event, "sequence_number": self._numbered})
            self._numbered += 1

    async def _events(self, submission: Submission, *, stream: bool) -> AsyncIterator[Event]:
        yield self._whole("response.created")
        yield self._whole("response.in_progress")
        reason = "stop"
        async for step in answer_steps(submission, self.plan, self.tokenizer, stream=stream):
            for part in step.parts:
                for event in self._add(part):
                    yield event
            reason = step.finish_reason or reason
        cut = reason == "length"
        if not self.body.output:
            # An answer of no tokens is a message without text.
            for event in self._open(OutputMessage(id=_new("msg"))):
                yield event
        for event in self._close("incomplete" if cut else "completed"):
            yield event
        self._finish(cut)
        yield self._whole("response.incomplete" if cut else "response.completed")

    def _whole(self, kind: str) -> Event:
        return {"type": kind, "response": self.body.model_dump()}

    def _finish(self, cut: bool) -> None:
        self.body.status = "incomplete" if cut else "completed"
        self.body.incomplete_details = {"reason": "max_output_tokens"} if cut else None
        self.body.usage = ResponseUsage(
            input_tokens=self.count.prompt,
            input_tokens_details=InputDetails(cached_tokens=self.count.cached),
            output_tokens=self.count.completion,
            output_tokens_details=OutputDetails(reasoning_tokens=self.count.reasoning),
            total_tokens=self.count.prompt + self.count.completion,
        )

    @property
    def _last(self) -> Item | None:
        return self.body.output[-1] if self.body.output else None

    def _add(self, part: AnswerPart) -> Iterator[Event]:
        if part.kind == "call":
            yield from self._begin(FunctionCallItem(id=_new("fc"), call_id=new_call_id(), name=part.name))
        elif part.kind == "arguments":
            yield from self._add_arguments(part.text)
        elif part.kind == "reasoning":
            if not isinstance(self._last, ReasoningItem):
                yield from self._begin(ReasoningItem(id=_new("rs"), content=[]))
            yield from self._add_text(part.text)
        else:
            if not isinstance(self._last, OutputMessage):
                yield from self._begin(OutputMessage(id=_new("msg")))
            yield from self._add_text(part.text)

    def _begin(self, item: Item) -> Iterator[Event]:
        yield from self._close("completed")
        yield from self._open(item)

    def _open(self, item: Item) -> Iterator[Event]:
        self.body.output.append(item)
        yield self._of_item("response.output_item.added")
        if isinstance(item, OutputMessage):
            item.content.append(OutputText())
            yield self._of_part("response.content_part.added", part=item.content[0].model_dump())
        elif isinstance(item, ReasoningItem):
            item.content.append(ReasoningText())
            yield self._of_part("response.content_part.added", part=item.content[0].model_dump())

    def _add_text(self, text: str) -> Iterator[Event]:
        item = self._last
        if isinstance(item, OutputMessage):
            item.content[0].text += text
            yield self._of_part("response.output_text.delta", delta=text, logprobs=[])
        elif isinstance(item, ReasoningItem):
            item.content[0].text += text
            yield self._of_part("response.reasoning_text.delta", delta=text)

    def _add_arguments(self, text: str) -> Iterator[Event]:
        item = self._last
        if isinstance(item, FunctionCallItem):
            item.arguments += text
            yield self._of_item("response.function_call_arguments.delta", delta=text)

    def _close(self, status: Any) -> Iterator[Event]:
        item = self._last
        if item is None or item.status != "in_progress":
            return
        item.status = status
        if isinstance(item, OutputMessage):
            yield self._of_part("response.output_text.done", text=item.content[0].text, logprobs=[])
            yield self._of_part("response.content_part.done", part=item.content[0].model_dump())
        elif isinstance(item, ReasoningItem):
            yield self._of_part("response.reasoning_text.done", text=item.content[0].text)
            yield self._of_part("response.content_part.done", part=item.content[0].model_dump())
        else:
            yield self._of_item("response.function_call_arguments.done", name=item.name, arguments=item.arguments)
        yield self._of_item("response.output_item.done")

    def _of_item(self, kind: str, **fields: Any) -> Event:
        item = self.body.output[-1]
        place = {"output_index": len(self.body.output) - 1}
        if kind.startswith("response.output_item."):
            return {"type": kind, **place, "item": item.model_dump()}
        return {"type": kind, **place, "item_id": item.id, **fields}

    def _of_part(self, kind: str, **fields: Any) -> Event:
        return {**self._of_item(kind), "content_index": 0, **fields}


def _new(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
