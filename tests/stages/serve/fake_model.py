"""A server with the chat page and a scripted model, whose answers carry every field that the page shows."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from longcat.stages.serve.listen import bind
from longcat.stages.serve.page import page_routes

LAYERS = 4
HOSTILE = "<img src=x onerror=alert(1)>"
USAGE = {
    "prompt_tokens": 40,
    "prompt_tokens_details": {"cached_tokens": 32},
    "completion_tokens_details": {"accepted_prediction_tokens": 3, "rejected_prediction_tokens": 1},
}


@dataclass
class FakeModel:
    """What the server answers, and the requests it got."""

    words: list[str] = field(default_factory=lambda: ["The", " answer", f" {HOSTILE}", " is", " here", "."])
    reasoning: list[str] = field(default_factory=list)
    endless: bool = False
    key: str | None = None
    refuse: dict[str, Any] | None = None
    refused_field: str | None = None
    bodies: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)

    def refusal(self, request: Request, body: dict[str, Any] | None) -> Response | None:
        """The error that this request gets, if any."""
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, "a valid key is required", None, "invalid_api_key")
        if body is not None and self.refused_field in body:
            return _error(400, f"{self.refused_field}: unknown field", self.refused_field, None)
        if body is not None and self.refuse:
            return JSONResponse({"error": self.refuse}, 400)
        return None

    async def events(self, body: dict[str, Any]) -> AsyncIterator[str]:
        """Server-sent events of one answer; every piece is a token."""
        chat = "messages" in body
        try:
            yield ": waiting\n\n"
            for number, text in enumerate(self.reasoning):
                yield _event(_choice({"reasoning_content": text}, number, body))
            async for number, text in self._pieces():
                yield _event(_choice({"content": text} if chat else text, number, body))
            tokens = len(self.reasoning) + len(self.words)
            usage = {**USAGE, "completion_tokens": tokens, "total_tokens": 40 + tokens}
            yield _event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()

    async def _pieces(self) -> AsyncIterator[tuple[int, str]]:
        for number, text in enumerate(self.words):
            yield number, text
            await asyncio.sleep(0.01)
        while self.endless:
            yield 0, " more"
            await asyncio.sleep(0.02)


def _choice(content: dict[str, str] | str, number: int, body: dict[str, Any]) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "finish_reason": None}
    choice |= {"text": content} if isinstance(content, str) else {"delta": content}
    if body.get("return_expert_counts"):
        choice["expert_counts"] = [[(number * 3 + layer * 2) % 13 for layer in range(LAYERS)]]
    return {"choices": [choice]}


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\r\n\r\n"


def _error(status: int, message: str, param: str | None, code: str | None) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "x", "param": param, "code": code}}, status)


def application(fake: FakeModel) -> FastAPI:
    """The page, the list of models and both routes that generate."""
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(page_routes())

    @app.get("/v1/models")
    async def models(request: Request) -> Response:
        refusal = fake.refusal(request, None)
        return refusal or JSONResponse({"data": [{"id": "tiny-flash", "max_model_len": 192}]})

    @app.post("/v1/chat/completions")
    @app.post("/v1/completions")
    async def generate(request: Request) -> Response:
        body = await request.json()
        fake.bodies.append({**body, "path": request.url.path})
        refusal = fake.refusal(request, body)
        return refusal or StreamingResponse(fake.events(body), media_type="text/event-stream")

    return app


@contextmanager
def serving(fake: FakeModel) -> Iterator[str]:
    """Serve on a free loopback port; yields the address."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(application(fake), log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
