"""Engines run pure functions of one shard; results do not depend on the engine."""

from longcat.pipeline.engine.base import Engine
from longcat.pipeline.engine.local import LocalEngine

__all__ = ["Engine", "LocalEngine"]
