"""The chat page at `/`: static files of this package, served with a strict Content-Security-Policy."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.exceptions import HTTPException

MEDIA_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "app.js": "text/javascript; charset=utf-8",
    "answer.js": "text/javascript; charset=utf-8",
    "client.js": "text/javascript; charset=utf-8",
    "controls.js": "text/javascript; charset=utf-8",
    "experts.js": "text/javascript; charset=utf-8",
}
# Nothing from elsewhere, no inline code, no string that becomes markup, and no frame of another page around it.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Browsers ask again after an update of the server.
    "Cache-Control": "no-cache",
}


def page_routes() -> APIRouter:
    """`/` and `/page/NAME`. They need no key: the page sends the user's key with its requests to `/v1`."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index() -> Response:
        return _file("index.html")

    @router.get("/page/{name}")
    async def asset(name: str) -> Response:
        if name not in MEDIA_TYPES:
            raise HTTPException(404)
        return _file(name)

    return router


def _file(name: str) -> Response:
    return Response(_content(name), media_type=MEDIA_TYPES[name], headers=HEADERS)


@cache
def _content(name: str) -> bytes:
    return files(__name__).joinpath(name).read_bytes()
