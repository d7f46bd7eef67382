"""The HTTP interface: OpenAI's models, completions and chat completions, health and metrics."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from longcat.stages.serve import metrics as prometheus
from longcat.stages.serve.auth import key_check
from longcat.stages.serve.body import read_request
from longcat.stages.serve.chat_completions import ChatRun
from longcat.stages.serve.completions import CompletionRun
from longcat.stages.serve.engine import InferenceEngine
from longcat.stages.serve.errors import ApiError, invalid, unavailable
from longcat.stages.serve.hosts import HostGuard
from longcat.stages.serve.metrics import ServerMetrics
from longcat.stages.serve.observe import Observe
from longcat.stages.serve.plan import Plan, plan_chat, plan_completion
from longcat.stages.serve.protocol import (
    ChatCompletion,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
)
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.stream import EventStream
from longcat.stages.serve.submission import Submission, refusals
from longcat.stages.serve.worker import DecodeWorker


class Service:
    """What the routes share."""

    def __init__(self, engine: InferenceEngine, settings: ServerSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.metrics = ServerMetrics()
        self.worker = DecodeWorker(engine, settings.max_queue, self.metrics)
        self.draining = False

    def check_model(self, name: str) -> None:
        """Raises ApiError 404 for a model that is not served here."""
        if name != self.settings.model_name:
            message = f"the model {name!r} is not served here, {self.settings.model_name!r} is"
            raise ApiError(404, message, param="model", code="model_not_found")

    def check_room(self) -> None:
        """Raises ApiError 429 or 503 before any work is done for a request that could not be queued."""
        if self.draining:
            raise unavailable("the server is shutting down")
        with refusals(self.settings):
            self.worker.check_room()

    def drain(self) -> None:
        """Take no more requests; those there are go on."""
        self.draining = True

    def submit(self, plan: Plan, choices: int, score_top: int | None = None) -> Submission:
        """Queue a plan; see `Submission`."""
        return Submission(self.worker, self.settings, plan.prompts, plan.params, choices=choices, score_top=score_top)


def create_app(engine: InferenceEngine, settings: ServerSettings) -> FastAPI:
    """The application, ready for any ASGI server. `app.state.service` holds what it is made of."""
    service = Service(engine, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.worker.close)

    # The interactive pages would load scripts from elsewhere.
    app = FastAPI(title="longcat", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.include_router(_open_routes(service))
    app.include_router(_model_routes(service))
    app.add_middleware(HostGuard, hosts=settings.allowed_hosts)
    app.add_middleware(Observe, metrics=service.metrics)
    _add_error_handlers(app)
    return app


def _open_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/health")
    async def health() -> dict[str, str]:
        """200 while requests are taken, 503 while the server drains or when its worker has died."""
        if service.draining or not service.worker.alive:
            raise unavailable("shutting down" if service.draining else "the decode worker has died")
        return {"status": "ok"}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus text format."""
        return Response(service.metrics.render(), headers={"Content-Type": prometheus.CONTENT_TYPE})

    return router


def _model_routes(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", dependencies=[Depends(key_check(service.settings.api_key))])
    settings, engine = service.settings, service.engine
    card = ModelCard(id=settings.model_name, max_model_len=engine.max_length)

    @router.get("/models")
    async def models() -> ModelList:
        """The one model there is."""
        return ModelList(data=[card])

    @router.get("/models/{name:path}")
    async def model(name: str) -> ModelCard:
        """That model."""
        service.check_model(name)
        return card

    @router.post("/completions", response_model=Completion, openapi_extra=_body_of(CompletionRequest))
    async def completions(request: Request) -> Response:
        """Continue prompts."""
        service.check_room()
        body = await read_request(request, CompletionRequest, settings)
        service.check_model(body.model)
        plan = await asyncio.to_thread(plan_completion, engine, body, settings)
        submission = service.submit(plan, body.n, body.logprobs if body.echo else None)
        run = CompletionRun(f"cmpl-{uuid.uuid4().hex}", int(time.time()), body, engine.tokenizer)
        if body.stream:
            return EventStream(submission, run.stream(submission))
        with submission.watched(request.receive):
            return JSONResponse((await run.collect(submission)).model_dump())

    @router.post("/chat/completions", response_model=ChatCompletion, openapi_extra=_body_of(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation."""
        service.check_room()
        body = await read_request(request, ChatRequest, settings)
        service.check_model(body.model)
        plan = await asyncio.to_thread(plan_chat, engine, body, settings)
        submission = service.submit(plan, body.n)
        run = ChatRun(f"chatcmpl-{uuid.uuid4().hex}", int(time.time()), body, engine.tokenizer)
        if body.stream:
            return EventStream(submission, run.stream(submission))
        with submission.watched(request.receive):
            return JSONResponse((await run.collect(submission)).model_dump())

    return router


def _body_of(kind: type[CompletionRequest] | type[ChatRequest]) -> dict[str, Any]:
    """The request body for the OpenAPI page; bodies are read by `read_request`, which bounds them first."""
    schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
    definitions = schema.pop("$defs", {})
    inlined = _inline(schema, definitions)
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inlined}}}}


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return _refusal(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        return _refusal(request, ApiError(error.status_code, str(error.detail), headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> JSONResponse:
        return _refusal(request, invalid("the request's path or query is not valid"))


def _refusal(request: Request, error: ApiError) -> JSONResponse:
    # `Observe` writes the line that tells of it.
    request.state.refusal = error
    return JSONResponse(error.body(), error.status, error.headers)
