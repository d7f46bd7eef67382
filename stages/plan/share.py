"""Parameters of one process of a layout."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from longcat.stages.plan.inventory import Unit, held_values
from longcat.stages.plan.layout import Layout
from longcat.stages.plan.work import Work
from longcat.stages.train.parallel.config import Degrees
from longcat.stages.train.parallel.pipeline_stage import layers_of_stage

WIDE = 4  # bytes of weights, their gradients and each of two moments


@dataclass(frozen=True)
class Share:
    """What a pipeline rank holds, for the process with the largest shards.

    `layers` are all its layers, `longest` those of its longest range; `dense`, `routers` and `experts` are values of
    whole parameters, `held` those of its shards; `buffers` in bytes. `root` and `largest` are bytes of the parameters
    that are gathered with the model, and of the largest layer, in the compute dtype.
    """

    layers: int
    longest: int
    is_last: bool
    dense: int
    routers: int
    experts: int
    held: int
    buffers: int
    root: int
    largest: int
    all_layers: int


def share_of(work: Work, layout: Layout, rank: int) -> Share:
    """Share of pipeline rank `rank`."""
    return _share(work, layout.options.pipeline_stages, layout.sizes, rank)


@lru_cache(maxsize=1 << 16)
def _share(work: Work, stages: int, sizes: Degrees, rank: int) -> Share:
    own = range(rank, stages, sizes.pipeline)
    ranges = [len(layers_of_stage(work.layers, stage, stages)) for stage in own]
    units = [unit for stage in own for unit in work.inventory.stage(stage, stages)]
    ends = (work.inventory.first, work.inventory.last)
    gathered = [(any(unit is end for end in ends), _gathered(work, sizes, unit)) for unit in units]
    of_layers = [size for is_end, size in gathered if not is_end]
    return Share(
        layers=sum(ranges),
        longest=max(ranges),
        is_last=stages - 1 in own,
        dense=sum(unit.values("dense") for unit in units),
        routers=sum(unit.values("routers") for unit in units),
        experts=sum(unit.values("experts") for unit in units),
        held=held_values(units, sizes, 0),
        buffers=sum(unit.buffers for unit in units),
        root=sum(size for is_end, size in gathered if is_end),
        largest=max(of_layers, default=0),
        all_layers=sum(of_layers),
    )


def _gathered(work: Work, sizes: Degrees, unit: Unit) -> int:
    experts = unit.values("experts") // sizes.expert
    return work.item * (unit.values("dense") + experts) + WIDE * unit.values("routers")
