"""`POST /admin/model`: another checkpoint takes over, without a moment in which requests are refused."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from fastapi import APIRouter, Depends, Request
from pydantic import Field

from longcat.model.accounting import count
from longcat.model.checkpoint import load_config
from longcat.model.errors import ModelError
from longcat.pipeline.errors import LongcatError, MissingArtifactError
from longcat.stages.inference.engine import InferenceEngine
from longcat.stages.serve.answer_bodies import ModelCard
from longcat.stages.serve.auth import key_check
from longcat.stages.serve.body import read_request
from longcat.stages.serve.errors import ApiError, invalid
from longcat.stages.serve.openapi import described
from longcat.stages.serve.protocol import Body
from longcat.stages.serve.service import Served, Service

logger = logging.getLogger(__name__)
# Memory of a float32 model while it is packed, as a multiple of its weights.
LOADING = 1.5


class SwapRequest(Body):
    """The checkpoint that is served from now on, as on the command line."""

    checkpoint: str = Field(min_length=1, max_length=4096)


@dataclass(frozen=True)
class Admin:
    """Who may swap the model and how: `resolve` finds the folder of a reference, `load` makes an engine of it."""

    keys: Sequence[str]
    resolve: Callable[[str], Path]
    load: Callable[[Path], InferenceEngine]


class ModelSwap:
    """Loads another checkpoint beside the served one, which finishes its requests."""

    def __init__(self, service: Service, admin: Admin) -> None:
        self._service = service
        self._admin = admin
        self._busy = False
        self._retiring: set[asyncio.Task[None]] = set()

    async def __call__(self, reference: str) -> None:
        """Serve the checkpoint; returns once it does.

        Raises:
            ApiError: 404 no such checkpoint, 400 it cannot be loaded, 409 a swap is under way, or the two models do not
                fit into memory.
        """
        if self._busy:
            raise ApiError(409, "another checkpoint is being loaded", code="busy")
        self._busy = True
        try:
            served = await asyncio.to_thread(self._prepare, reference)
        finally:
            self._busy = False
        before, self._service.served = self._service.served, served
        logger.info("serving %s", reference)
        task = asyncio.create_task(asyncio.to_thread(_retire, before))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _prepare(self, reference: str) -> Served:
        try:
            folder = self._admin.resolve(reference)
            check_fits(folder, self._service.engine)
            engine = self._admin.load(folder)
            _ = engine.core
        except MissingArtifactError as error:
            raise ApiError(404, error.what, param="checkpoint", code="checkpoint_not_found") from None
        except LongcatError as error:
            raise invalid(f"{reference}: {error.what}", "checkpoint") from None
        except ModelError as error:
            raise invalid(str(error), "checkpoint") from None
        served = self._service.serving(engine)
        served.worker.start()
        return served


def _retire(served: Served) -> None:
    served.worker.retire()
    served.grammars.close()


def check_fits(folder: Path, engine: InferenceEngine) -> None:
    """Check that a checkpoint and its cache, as large as the present one, fit into memory beside the served model.

    Raises:
        ApiError: 409 with the numbers.
        ModelError: config.json cannot be read.
    """
    parameter = next(engine.model.parameters())
    weights = sum(count(load_config(folder, quantized="read")).parameters.values()) * parameter.itemsize
    needed = int(LOADING * weights) + engine.core.runner.cache.nbytes
    on_cpu = parameter.device.type == "cpu"
    free = psutil.virtual_memory().available if on_cpu else torch.cuda.mem_get_info(parameter.device)[0]
    if needed > free:
        message = (
            f"both models do not fit: the new one needs {needed / 2**30:.1f} GiB while the other ends its requests, "
            f"and {free / 2**30:.1f} GiB are free; restart the server with it"
        )
        raise ApiError(409, message, kind="server_error", code="insufficient_memory")


def admin_routes(service: Service, admin: Admin) -> APIRouter:
    """The route; it needs a key of its own."""
    router = APIRouter(prefix="/admin", dependencies=[Depends(key_check(admin.keys))])
    swap = ModelSwap(service, admin)

    @router.post("/model", **described(409, body=SwapRequest))
    async def model(request: Request) -> ModelCard:
        """Serve another checkpoint under the same name; running requests finish on the present one."""
        service.check_ready()
        body = await read_request(request, SwapRequest, service.settings, service.check_model)
        await swap(body.checkpoint)
        return service.card

    return router
