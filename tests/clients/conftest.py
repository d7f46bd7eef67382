"""The tiny checkpoint of the server's tests."""

from __future__ import annotations

from tests.stages.serve.conftest import checkpoint, client, engine, serve, shared

__all__ = ["checkpoint", "client", "engine", "serve", "shared"]
