"""Engines run pure functions of one shard; which engine it was leaves no trace in the result."""

from longcat.pipeline.engine.base import Engine
from longcat.pipeline.engine.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
