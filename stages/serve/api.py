"""The HTTP interface: routes, middleware and the format of errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve import openapi
from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.hosts import HostGuard
from longcat.stages.serve.model_swap import Admin, admin_routes
from longcat.stages.serve.page import page_routes
from longcat.stages.serve.request_log import HEADER, Observe
from longcat.stages.serve.routes import model_routes, open_routes
from longcat.stages.serve.service import DrainGate, JobRunner, Service
from longcat.stages.serve.settings import ServerSettings
from longcat.stages.serve.tokens import token_routes


def create_app(
    engine: InferenceEngine,
    settings: ServerSettings,
    worker: JobRunner | None = None,
    admin: Admin | None = None,
) -> FastAPI:
    """Build the ASGI application; its state is in `app.state.service`. Without `admin` the model cannot be swapped."""
    service = Service(engine, settings, worker)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        await asyncio.to_thread(service.close)

    # The interactive pages would load external scripts.
    app = FastAPI(title="longcat", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.service = service
    app.include_router(open_routes(service))
    app.include_router(model_routes(service))
    app.include_router(token_routes(service))
    if admin is not None:
        app.include_router(admin_routes(service, admin))
    if settings.page:
        app.include_router(page_routes())
    app.add_middleware(DrainGate, service=service)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=[HEADER.decode(), "Retry-After"],
        )
    app.add_middleware(HostGuard, hosts=settings.allowed_hosts)
    app.add_middleware(Observe, metrics=service.metrics, each=settings.log_requests)
    _complete_openapi(app, service)
    _add_error_handlers(app)
    return app


def _complete_openapi(app: FastAPI, service: Service) -> None:
    made, keyed, vocabulary = app.openapi, bool(service.settings.api_keys), service.engine.vocab_size

    def page() -> dict[str, Any]:
        # FastAPI keeps the page that it has made.
        return (
            openapi.complete(made(), keyed=keyed, vocabulary=vocabulary)
            if app.openapi_schema is None
            else app.openapi_schema
        )

    app.openapi = page  # type: ignore[method-assign]


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
    # The rest of a late body would be read as the next request.
    return error.response(request.scope, close=error.status == 408)
