"""Grammars of requests, compiled beside the event loop."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from longcat.pipeline.errors import InputError, UsageError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.inference.structured import GrammarCompiler
from longcat.stages.serve.errors import ApiError, invalid, too_busy
from longcat.stages.serve.generation_request import GenerationRequest
from longcat.stages.serve.settings import ServerSettings

THREADS = 2


class Grammars:
    """The compiler of an engine's grammars, on threads that nothing else waits for."""

    def __init__(self, engine: InferenceEngine, settings: ServerSettings) -> None:
        self.compiler = GrammarCompiler(engine.tokenizer, engine.stop_token_ids)
        self._pool = ThreadPoolExecutor(THREADS, "grammar")
        self._settings = settings
        self._pending = 0

    async def compiled(self, plan: GenerationRequest) -> GenerationRequest:
        """The plan with its grammar compiled into the parameters.

        Raises:
            ApiError: 400 if the grammar is invalid, 429 if too many are waiting, 501 without the library.
        """
        if plan.grammar is None:
            return plan
        if self._pending > self._settings.max_queue:
            raise too_busy(self._settings.retry_seconds)
        self._pending += 1
        try:
            loop = asyncio.get_running_loop()
            grammar = await loop.run_in_executor(self._pool, self.compiler.compile, plan.grammar)
        except InputError as error:
            field = error.where or plan.grammar.field
            raise invalid(f"{field}: {error.what}", field, "invalid_grammar") from None
        except UsageError as error:
            raise ApiError(501, f"{plan.grammar.field}: {error.what}", code="not_installed") from None
        finally:
            self._pending -= 1
        return replace(plan, params=replace(plan.params, grammar=grammar))

    def close(self) -> None:
        """Compile nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)
