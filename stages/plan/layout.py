"""A layout of processes, and the groups that its processes exchange data in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from longcat.stages.plan.config import Checkpointing
from longcat.stages.train.parallel.config import Degrees, ParallelOptions


class Group(NamedTuple):
    """Processes that differ in one coordinate of the grid: `size` of them, whose ranks are `stride` apart."""

    size: int
    stride: int = 1

    def neighbours(self, per_node: int) -> int:
        """Members on the node of each, itself included."""
        return max(1, min(self.size, per_node // self.stride))


@dataclass(frozen=True)
class Layout:
    """Degrees, micro batches and recomputation of a run.

    `micro_batch_size` in sequences; `micro_batches` per data group and step.
    """

    options: ParallelOptions
    sizes: Degrees
    micro_batch_size: int
    micro_batches: int
    checkpointing: Checkpointing

    @property
    def stages_per_process(self) -> int:
        """Layer ranges of a process."""
        return self.options.pipeline_stages // self.sizes.pipeline

    @property
    def shard_group(self) -> Group:
        return Group(self.sizes.shard)

    @property
    def expert_group(self) -> Group:
        return Group(self.sizes.expert)

    @property
    def expert_data_group(self) -> Group:
        """Processes that shard the same experts."""
        return Group(self.sizes.expert_data, self.sizes.expert)

    @property
    def replicate_group(self) -> Group:
        return Group(self.sizes.data_replicate, self.sizes.shard)

    @property
    def context_group(self) -> Group:
        return Group(self.sizes.context)

    @property
    def pipeline_group(self) -> Group:
        return Group(self.sizes.pipeline, self.sizes.data * self.sizes.context)

    def to_json(self) -> dict[str, object]:
        """Keys of a training configuration, under `parallel` where they are degrees."""
        sizes = self.sizes
        return {
            "parallel": {
                "pipeline": sizes.pipeline,
                "pipeline_schedule": self.options.pipeline_schedule,
                "data_replicate": sizes.data_replicate,
                "data_shard": sizes.data_shard,
                "context": sizes.context,
                "expert": sizes.expert,
            },
            "micro_batch_size": self.micro_batch_size,
            "activation_checkpointing": self.checkpointing,
        }
