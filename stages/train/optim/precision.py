"""Half-precision training: float32 master weights, and a copy of the model for matrix products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from longcat.model.embeddings.ngram import NgramEmbedding
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.norms import scale_gradients

# Gradients converted to float32 at once; a larger parameter is converted alone.
BUCKET_VALUES = 1 << 23
ALIGNMENT = 16  # values; alignment may change the last bit


class ComputeModel:
    """The model used in forward passes: the master itself in float32, else a copy in the compute dtype.

    The gradients of the copy become those of the master, which are used by the optimizer, checkpoints and the bias
    controller. Those of one micro batch keep the dtype of the copy until the optimizer step, the sum of several is
    float32. Sharded parameters have no copy: they are cast when gathered (`stages.train.parallel.fsdp`).

    N-gram tables are not copied: the rows read are cast, with the same bits. In a single process their gradients are
    sparse.
    """

    def __init__(self, held: Distributed) -> None:
        self.models, self.layers = held.models, held.layer_modules()
        self._masters = [parameter for _, parameter in held.named_parameters()]
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        self._buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._tables: list[nn.Parameter] = []
        if held.parallel.is_distributed:
            return
        embedding = held.model.model.embed_tokens
        if isinstance(embedding, NgramEmbedding):
            embedding.sparse_gradients = True
            self._tables = [embedding.tables]
        if held.dtype == torch.float32:
            return
        copy = _copy_of(held)
        pairs = zip(held.model.parameters(), copy.parameters(), strict=True)
        self._pairs = [(master, other) for master, other in pairs if other is not master]
        self._buffers = list(zip(held.model.buffers(), copy.buffers(), strict=True))
        for master, _ in self._pairs:
            master.grad_dtype = None
        self.models, self.layers = (copy,), dict(enumerate(copy.model.layers))
        self.refresh()

    @property
    def model(self) -> LongcatFlash:
        """The model of a process without a pipeline."""
        (model,) = self.models
        return model

    @torch.no_grad()
    def collect_gradients(self) -> None:
        """Move the copy's gradients to the master; call after every backward pass.

        The rows of a sparse gradient become distinct.
        """
        for table in self._tables:
            if table.grad is not None:
                table.grad = table.grad.coalesce()
        for master, copy in self._pairs:
            if master.grad is None:
                master.grad = copy.grad
            elif copy.grad is not None:
                master.grad = master.grad.float().add_(copy.grad)
            copy.grad = None

    @torch.no_grad()
    def update(self, optimizer: torch.optim.Optimizer, factor: float) -> None:
        """Optimizer step with all gradients multiplied by `factor`; clears them. Call `refresh` afterwards.

        Gradients in the dtype of the copy are converted, then scaled, a few parameters at a time in the same memory:
        the optimizer skips parameters without a gradient.
        """
        if not self._pairs:
            scale_gradients(self._masters, factor)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return
        kept = [(master, master.grad) for master, _ in self._pairs if master.grad is not None]
        tables = [(table, table.grad) for table in self._tables if table.grad is not None]
        optimizer.zero_grad(set_to_none=True)
        buckets = list(_buckets([master for master, _ in kept]))
        wide = kept[0][0].new_empty(max((size for _, size in buckets), default=0))
        for members, _ in buckets:
            first = 0
            for master in members:
                gradient = kept.pop(0)[1]
                master.grad = wide[first : first + master.numel()].view_as(master).copy_(gradient)
                first += _aligned(master)
            scale_gradients(members, factor)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        for table, rows in tables:
            table.grad = rows
            scale_gradients([table], factor)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def refresh(self) -> None:
        """Copy the master's values to the copy; call after every optimizer step."""
        for master, copy in [*self._pairs, *self._buffers]:
            copy.copy_(master)


def _copy_of(held: Distributed) -> LongcatFlash:
    """The model in the compute dtype without values, with the n-gram tables of the master."""
    with torch.device("meta"):
        copy = LongcatFlash(held.config)
    embedding, own = copy.model.embed_tokens, held.model.model.embed_tokens
    shared = isinstance(embedding, NgramEmbedding) and isinstance(own, NgramEmbedding)
    if shared:
        del embedding.tables
    copy = copy.to(dtype=held.dtype)
    for router in copy.routers():
        router.float()
    copy.to_empty(device=held.parallel.device)
    if shared:
        embedding.tables, embedding.sparse_gradients = own.tables, own.sparse_gradients
    return copy


def _aligned(parameter: nn.Parameter) -> int:
    return -(-parameter.numel() // ALIGNMENT) * ALIGNMENT


def _buckets(parameters: Sequence[nn.Parameter]) -> Iterator[tuple[list[nn.Parameter], int]]:
    """Consecutive parameters of at most `BUCKET_VALUES` values together, or a larger one, with their total size."""
    members: list[nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if members and size + _aligned(parameter) > BUCKET_VALUES:
            yield members, size
            members, size = [], 0
        members.append(parameter)
        size += _aligned(parameter)
    if members:
        yield members, size
