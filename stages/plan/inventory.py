"""Parameters of a model by the unit they are gathered in, and how many of them a process holds.

Sharding is that of `stages.train.parallel`: experts are dealt out along their first dimension and sharded along the
second; everything else is sharded along the first dimension in chunks of equal size, of which the last may be shorter
or empty. Buffers are replicated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from math import prod

import torch

from longcat.model.config import ModelConfig
from longcat.model.moe.mixture import MixtureOfExperts
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.config import Degrees
from longcat.stages.train.parallel.pipeline_stage import layers_of_stage

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Unit:
    """Shapes of the parameters that are gathered together, by number; `buffers` in bytes."""

    dense: Counter[Shape] = field(default_factory=Counter)
    routers: Counter[Shape] = field(default_factory=Counter)
    experts: Counter[Shape] = field(default_factory=Counter)
    buffers: int = 0

    def values(self, kind: str) -> int:
        """Number of values of the `dense` parameters, `routers` or `experts`."""
        return _values(getattr(self, kind))

    def held(self, sizes: Degrees, place: int) -> int:
        """Values of the shards of process `place` of those that share the parameters (`rank % sizes.shard`)."""
        flat = _shards(self.dense, sizes.shard, place) + _shards(self.routers, sizes.shard, place)
        if sizes.expert == 1:
            return flat + _shards(self.experts, sizes.shard, place)
        return flat + self.values("experts") // (sizes.expert * sizes.expert_data)


@dataclass(frozen=True)
class Inventory:
    """Units of a model: its layers, and what is gathered with the whole model, by pipeline stage.

    `first` is the embedding, `last` final norm, output projection and multi-token prediction; without a pipeline both
    belong to the same process.
    """

    layers: tuple[Unit, ...]
    first: Unit
    last: Unit

    def stage(self, stage: int, stages: int) -> list[Unit]:
        """Units of one of `stages` ranges of layers."""
        own = [self.layers[layer] for layer in layers_of_stage(len(self.layers), stage, stages)]
        return [*([self.first] if stage == 0 else []), *own, *([self.last] if stage == stages - 1 else [])]


def take_inventory(config: ModelConfig) -> Inventory:
    """Count a model on the meta device."""
    with torch.device("meta"):
        model = LongcatFlash(config.runnable_part)
    layers, embedding = list(model.model.layers), model.model.embed_tokens
    elsewhere = {id(tensor) for module in (*layers, embedding) for tensor in _tensors(module)}
    # A table that the output or multi-token prediction shares is that of the embedding.
    last = _unit(model, lambda tensor: id(tensor) not in elsewhere)
    return Inventory(tuple(_unit(layer) for layer in layers), _unit(embedding), last)


def held_values(units: Iterable[Unit], sizes: Degrees, rank: int) -> int:
    """Parameters of these units that the process with this rank holds."""
    return sum(unit.held(sizes, rank % sizes.shard) for unit in units)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    return chain(module.parameters(), module.buffers())


def _unit(root: torch.nn.Module, counts: Callable[[torch.Tensor], bool] = lambda _: True) -> Unit:
    """Unit of the tensors that count."""
    found = Unit(buffers=sum(b.numel() * b.element_size() for b in root.buffers() if counts(b)))
    kinds: dict[int, Counter[Shape]] = {}
    for module in root.modules():
        if isinstance(module, MixtureOfExperts):
            kinds |= {id(value): found.routers for value in module.router.parameters()}
            kinds |= {id(value): found.experts for value in module.experts.parameters()}
    for value in filter(counts, root.parameters()):
        kinds.get(id(value), found.dense)[tuple(value.shape)] += 1
    return found


def _values(shapes: Counter[Shape]) -> int:
    return sum(times * prod(shape) for shape, times in shapes.items())


def _shards(shapes: Counter[Shape], shards: int, place: int) -> int:
    """Values of one of the chunks along the first dimension."""
    total = 0
    for (rows, *rest), times in shapes.items():
        chunk = -(-rows // shards)
        total += times * max(0, min(chunk, rows - place * chunk)) * prod(rest)
    return total
