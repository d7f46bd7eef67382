"""Routes that say how the server is, and those of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve import metrics as prometheus
from longcat.stages.serve.answer_bodies import ChatCompletion, Completion, ModelCard, ModelList
from longcat.stages.serve.auth import key_check
from longcat.stages.serve.body import read_request
from longcat.stages.serve.chat_completions import ChatRun
from longcat.stages.serve.completions import CompletionRun
from longcat.stages.serve.generation_request import GenerationRequest, plan_chat, plan_completion, plan_response
from longcat.stages.serve.openapi import described
from longcat.stages.serve.protocol import ChatRequest, CompletionRequest
from longcat.stages.serve.response_bodies import ResponseBody
from longcat.stages.serve.responses import RESPONSE_STREAM, ResponseRun
from longcat.stages.serve.responses_protocol import ResponsesRequest
from longcat.stages.serve.service import Served, Service
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.stream import CHAT_STREAM, EventStream, StreamForm
from longcat.stages.serve.submission import Submission


class Generation(Protocol):
    """A body that asks for text."""

    model: str
    stream: bool


class Run(Protocol):
    """The answer to one request."""

    async def collect(self, submission: Submission) -> BaseModel:
        """The complete answer."""

    def stream(self, submission: Submission) -> AsyncIterator[bytes]:
        """The answer as events."""


G = TypeVar("G", ChatRequest, CompletionRequest, ResponsesRequest)


def open_routes(service: Service) -> APIRouter:
    """`/health`, `/ready` and `/metrics`; they need no key."""
    router = APIRouter()

    @router.get("/health", **described(503))
    async def health() -> dict[str, str]:
        """200 while requests are accepted, 503 while the server drains or after its worker has died."""
        service.check_ready()
        return {"status": "ok"}

    @router.get("/ready", **described(503))
    async def ready() -> dict[str, str]:
        """200 if new requests should be sent here, 503 from the first signal on."""
        service.check_ready()
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, **described())
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(service.metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    return router


def model_routes(service: Service) -> APIRouter:
    """The routes below `/v1`."""
    router = APIRouter(prefix="/v1", dependencies=[Depends(key_check(service.settings.api_keys))])

    @router.get("/models", **described(keyed=True))
    async def models() -> ModelList:
        """List the served model."""
        return ModelList(data=[service.card])

    @router.get("/models/{name:path}", **described(404, keyed=True))
    async def model(name: str) -> ModelCard:
        """Describe the served model."""
        service.check_model(name)
        return service.card

    @router.post("/completions", response_model=Completion, **described(body=CompletionRequest, streams=True))
    async def completions(request: Request) -> Response:
        """Complete prompts."""
        return await _answer(service, request, CompletionRequest, plan_completion, CompletionRun, "cmpl-")

    @router.post("/chat/completions", response_model=ChatCompletion, **described(body=ChatRequest, streams=True))
    async def chat_completions(request: Request) -> Response:
        """Complete a conversation."""
        return await _answer(service, request, ChatRequest, plan_chat, ChatRun, "chatcmpl-")

    @router.post("/responses", response_model=ResponseBody, **described(body=ResponsesRequest, streams=True))
    async def responses(request: Request) -> Response:
        """Answer an input; nothing is stored."""
        return await _answer(service, request, ResponsesRequest, plan_response, ResponseRun, "resp_", RESPONSE_STREAM)

    return router


async def _answer(
    service: Service,
    request: Request,
    kind: type[G],
    plan_of: Callable[[InferenceEngine, G, ServerSettings], GenerationRequest],
    make_run: Callable[..., Run],
    prefix: str,
    form: StreamForm = CHAT_STREAM,
) -> Response:
    """Read a body, queue what it asks for, and answer at once or as a stream."""
    service.check_room()

    async def prepare() -> tuple[G, Served, GenerationRequest]:
        body = await read_request(request, kind, service.settings, service.check_model)
        served, template = service.served, kind is not CompletionRequest
        plan = await service.off_loop(plan_of, served.engine, body, service.settings, template=template)
        return body, served, await served.grammars.compiled(plan)

    body, served, plan = await service.unless_aborted(prepare())
    submission = service.submit(served, plan, request.state.client_key)
    request.state.generation = (body.stream, submission.count)
    identifier, created = f"{prefix}{uuid.uuid4().hex}", int(time.time())
    run = make_run(identifier, created, body, served.engine.tokenizer, submission.count, plan)
    if body.stream:
        return EventStream(submission, run.stream(submission), form, service.settings.comment_seconds)
    with submission.watched(request.receive):
        return JSONResponse((await run.collect(submission)).model_dump())
