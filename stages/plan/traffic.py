"""Bytes that a process sends in a step, by what for and by link.

Collectives go in rings, as many as there are members on a node: every byte passes the links inside the nodes, and each
device's network link carries its share of what leaves the node. An all-to-all sends to each member directly.
"""

from __future__ import annotations

from dataclasses import dataclass

from longcat.stages.plan.devices import Device
from longcat.stages.plan.layout import Group, Layout
from longcat.stages.plan.share import WIDE, Share
from longcat.stages.plan.work import Work

EXCHANGES = 4  # rows to experts and back, and their gradients
REDUCE_AND_GATHER = 2  # the two halves of an all-reduce


@dataclass(frozen=True)
class Traffic:
    """Bytes that a device sends to other nodes, and within its own."""

    network: float = 0
    node: float = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.network + other.network, self.node + other.node)

    def times(self, factor: float) -> Traffic:
        return Traffic(factor * self.network, factor * self.node)

    def seconds(self, device: Device, efficiency: float) -> float:
        """Time on both links at once."""
        return max(self.network / device.network_bandwidth, self.node / device.node_bandwidth) / efficiency


def collective(total: float, group: Group, per_node: int) -> Traffic:
    """An all-gather or reduce-scatter of `total` bytes over all members."""
    near = group.neighbours(per_node)
    moved = total * (group.size - 1) / group.size
    return Traffic(moved / near if group.size > near else 0, moved if near > 1 else 0)


def all_to_all(sent: float, group: Group, per_node: int) -> Traffic:
    """`sent` bytes of each member, spread evenly over all, itself included."""
    near = group.neighbours(per_node)
    return Traffic(sent * (group.size - near) / group.size, sent * (near - 1) / group.size)


def exchange(work: Work, layout: Layout, per_node: int) -> Traffic:
    """Rows of one layer and micro batch, in one direction, to experts or back."""
    rows = tokens_of(work, layout) * work.expert_rows
    return all_to_all(rows * work.row_bytes, layout.expert_group, per_node)


def exchanges(layout: Layout) -> int:
    """Exchanges of a layer and micro batch; rows are sent again where whole layers are computed again."""
    return EXCHANGES + 2 * (layout.checkpointing == "block")


def tokens_of(work: Work, layout: Layout) -> int:
    """Tokens of a micro batch that a process computes."""
    return layout.micro_batch_size * work.sequence_length // layout.sizes.context


def parameters(work: Work, layout: Layout, share: Share, per_node: int) -> tuple[Traffic, Traffic]:
    """All-gathers of the compute dtype and reductions of float32 gradients, each once."""

    def over_both(size: float) -> Traffic:
        shards = collective(size * share.dense + WIDE * share.routers, layout.shard_group, per_node)
        experts = size * share.experts / layout.sizes.expert
        return shards + collective(experts, layout.expert_data_group, per_node)

    replicas = collective(WIDE * share.held, layout.replicate_group, per_node).times(REDUCE_AND_GATHER)
    return over_both(work.item), over_both(WIDE) + replicas


def step_traffic(work: Work, layout: Layout, share: Share, per_node: int) -> dict[str, Traffic]:
    """Bytes of a step of the process with this share, by what for."""
    gather, reduce = parameters(work, layout, share, per_node)
    layers = share.layers
    micro_batches, tokens = layout.micro_batches, tokens_of(work, layout)
    again = layout.checkpointing == "block"
    # Latents are gathered before attention, and their gradients reduced.
    row = tokens * layout.sizes.context * work.latent_bytes
    latents = collective(row, layout.context_group, per_node).times(layers * (2 + again) * micro_batches)
    handed_on = all_to_all(tokens * work.row_bytes, Group(2, layout.pipeline_group.stride), per_node).times(2)
    boundaries = layout.stages_per_process if layout.sizes.pipeline > 1 else 0
    return {
        "parameters gathered": gather.times(1 if layout.sizes.pipeline > 1 else 2 * micro_batches),
        "gradients reduced": reduce.times(1 if layout.sizes.pipeline > 1 else micro_batches),
        "rows of experts": exchange(work, layout, per_node).times(layers * exchanges(layout) * micro_batches),
        "latents of rows": latents,
        # Half of an exchange between two is sent: hidden states forward, their gradients backward.
        "between stages": handed_on.times(2 * boundaries * micro_batches),
    }
