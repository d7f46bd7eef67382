"""Number of processes of a run. Not part of the artifact's id: a run can be resumed with other numbers."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from longcat.pipeline.config import RUNTIME, StageConfig


class LaunchOptions(StageConfig):
    """The processes of a run; see `stages.train.launch.torchrun`."""

    nproc_per_node: int = Field(
        default=1, ge=1, description="processes per node, one per GPU", json_schema_extra=RUNTIME
    )
    nnodes: int = Field(default=1, ge=1, description="nodes; each runs the same command", json_schema_extra=RUNTIME)
    node_rank: int = Field(default=0, ge=0, description="index of this node, from 0", json_schema_extra=RUNTIME)
    rendezvous: str | None = Field(
        default=None, description="HOST:PORT of node 0, for several nodes", json_schema_extra=RUNTIME
    )
    collective_timeout: float = Field(
        default=600, gt=0, description="seconds that a process waits for others", json_schema_extra=RUNTIME
    )

    @model_validator(mode="after")
    def _nodes_fit(self) -> Self:
        if self.node_rank >= self.nnodes:
            raise ValueError(f"node_rank = {self.node_rank} needs nnodes = {self.node_rank + 1} or more")
        if self.nnodes > 1 and self.rendezvous is None:
            raise ValueError("several nodes need rendezvous = HOST:PORT of node 0")
        if self.rendezvous is not None:
            self.rendezvous_address()
        return self

    @property
    def world_size(self) -> int:
        return self.nproc_per_node * self.nnodes

    def rendezvous_address(self) -> tuple[str, int]:
        """Host and port of `rendezvous`.

        Raises:
            ValueError: it is not of the form HOST:PORT.
        """
        host, _, port = (self.rendezvous or "").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"rendezvous = {self.rendezvous!r} is not HOST:PORT")
        return host.strip("[]"), int(port)
