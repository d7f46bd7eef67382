"""Process grid.

A rank is a position in a grid, the last coordinate varying fastest:

    rows        [pipeline, data, context]                    data = data_replicate * data_shard
    parameters  [pipeline, data_replicate, shard]            shard = data_shard * context
    experts     [pipeline, data_replicate, expert_data, expert]

The same ranks in the same order three times: the processes that share a sequence are neighbours, those that share the
experts of a layer are neighbours too, and the remaining dimension of a shard (`expert_data`) shards its experts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from longcat.stages.train.parallel.config import Degrees, ParallelOptions, check_batch, degrees


@dataclass(frozen=True)
class Parallel:
    """Position of this process. `Parallel()` is a single process, without meshes and communication."""

    options: ParallelOptions = field(default_factory=ParallelOptions)
    sizes: Degrees = field(default_factory=Degrees)
    rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rows_mesh: DeviceMesh | None = None
    parameter_mesh: DeviceMesh | None = None
    expert_mesh: DeviceMesh | None = None

    @classmethod
    def join(cls, options: ParallelOptions, device: torch.device) -> Parallel:
        """Position of this process among all `torch.distributed` processes; collective.

        Raises:
            ConfigError: the degrees do not fit the number of processes.
        """
        world = dist.get_world_size() if dist.is_initialized() else 1
        sizes = degrees(options, world)
        if not dist.is_initialized():
            return cls(options, sizes, 0, device)
        grid = sizes.pipeline, sizes.data_replicate
        kind = device.type
        return cls(
            options,
            sizes,
            dist.get_rank(),
            device,
            init_device_mesh(
                kind, (sizes.pipeline, sizes.data, sizes.context), mesh_dim_names=("pipeline", "data", "context")
            ),
            init_device_mesh(kind, (*grid, sizes.shard), mesh_dim_names=("pipeline", "data_replicate", "shard")),
            init_device_mesh(
                kind,
                (*grid, sizes.expert_data, sizes.expert),
                mesh_dim_names=("pipeline", "data_replicate", "expert_data", "expert"),
            ),
        )

    @property
    def is_distributed(self) -> bool:
        """Whether process groups exist; a single process under a launcher has them too."""
        return self.rows_mesh is not None

    @property
    def world(self) -> int:
        return self.sizes.pipeline * self.sizes.data * self.sizes.context

    @property
    def is_first(self) -> bool:
        """Whether this is the leading process, which writes shared files."""
        return self.rank == 0

    @property
    def pipeline_rank(self) -> int:
        return self.rank // (self.sizes.data * self.sizes.context)

    @property
    def data_rank(self) -> int:
        """Index of this process's part of the batch, of `sizes.data`."""
        return self.rank // self.sizes.context % self.sizes.data

    @property
    def context_rank(self) -> int:
        return self.rank % self.sizes.context

    def rows_group(self, dimension: str) -> dist.ProcessGroup:
        """Processes that differ from this one in one coordinate of `rows` (`pipeline`, `data`, `context`)."""
        assert self.rows_mesh is not None  # noqa: S101  asked for only where there is more than one process
        return self.rows_mesh.get_group(dimension)

    def parameter_shards(self) -> DeviceMesh:
        """Mesh over which parameters other than experts are sharded, and replicated if configured."""
        assert self.parameter_mesh is not None  # noqa: S101
        return _with_replicas(self.parameter_mesh, self.sizes, "shard")

    def expert_shards(self) -> DeviceMesh:
        """`parameter_shards` for the experts."""
        assert self.expert_mesh is not None  # noqa: S101
        return _with_replicas(self.expert_mesh, self.sizes, "expert_data")

    def batch_share(self, batch_size: int, micro_batch_size: int) -> range:
        """Rows of a global batch for this process: a range of whole micro batches.

        So the micro batches of a step are the same for any number of processes.

        Raises:
            ConfigError: the batch cannot be split into whole micro batches.
        """
        if self.is_distributed:
            check_batch(self.sizes, batch_size, micro_batch_size)
        share = batch_size // self.sizes.data
        return range(self.data_rank * share, (self.data_rank + 1) * share)


def _with_replicas(mesh: DeviceMesh, sizes: Degrees, shards: str) -> DeviceMesh:
    return mesh["data_replicate", shards] if sizes.data_replicate > 1 else mesh[shards]
