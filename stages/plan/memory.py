"""Memory of each process of a layout.

Shards are exact (`inventory`). A process without a pipeline gathers a layer while it computes another, and reduces the
gradients of a third; with a pipeline all its layers stay gathered and their gradients accumulate whole, as
`stages.train.parallel.fsdp` says. What a layer keeps for its backward pass is that of `model.training_memory`, and with
several processes the rows that experts receive and return, and the keys and values of a whole row that context
parallelism expands.
"""

from __future__ import annotations

from dataclasses import dataclass

from longcat.stages.plan.layout import Layout
from longcat.stages.plan.share import WIDE, Share, share_of
from longcat.stages.plan.work import Work
from longcat.stages.train.parallel.config import Degrees

GATHERED_LAYERS = 2  # the one computed and the next


@dataclass(frozen=True)
class RankMemory:
    """Bytes of one process. `gathered` is whole parameters and gradients, `exchange` rows in flight to experts, `host`
    what a process on a CPU needs beside tensors."""

    weights: int = 0
    gradients: int = 0
    moments: int = 0
    gathered: int = 0
    activations: int = 0
    exchange: int = 0
    logits: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        lasting = self.weights + self.gradients + self.moments
        return lasting + self.gathered + self.activations + self.exchange + self.logits + self.host

    @property
    def state(self) -> int:
        """Bytes that outlive a step, without gradients."""
        return self.weights + self.moments


def memory_of(work: Work, layout: Layout, *, host: bool = False) -> list[RankMemory]:
    """Memory of the process with the largest shards of every pipeline rank; the first and last usually decide.

    `host`: a single process runs on a CPU, whose libraries and allocator take memory too.
    """
    if layout.sizes == Degrees():
        return [_single(work, layout, host)]
    return [_of_rank(work, layout, rank) for rank in range(layout.sizes.pipeline)]


def _single(work: Work, layout: Layout, host: bool) -> RankMemory:
    """A single process, which has plain parameters, at the time when it needs most."""
    tokens = layout.micro_batch_size * work.sequence_length
    found = work.single_process(tokens, layout.micro_batches, layout.checkpointing)
    in_backward = found.peak == found.weights + found.copy + found.moments + found.sums + found.activations + found.loss
    return RankMemory(
        weights=found.weights,
        gradients=found.sums if in_backward else found.gradients,
        moments=found.moments,
        gathered=found.copy,
        activations=found.activations if in_backward else 0,
        logits=found.loss if in_backward else 0,
        host=found.host_peak - found.peak if host else 0,
    )


def _of_rank(work: Work, layout: Layout, rank: int) -> RankMemory:
    share, sizes = share_of(work, layout, rank), layout.sizes
    tokens = layout.micro_batch_size * work.sequence_length // sizes.context
    rows = work.expert_rows * work.row_bytes if sizes.expert > 1 and share.experts else 0.0
    return RankMemory(
        weights=WIDE * share.held + share.buffers,
        gradients=WIDE * share.held,
        moments=2 * WIDE * share.held,
        gathered=_gathered(work, layout, share),
        activations=round(tokens * _activations(work, layout, rows, in_flight(layout, rank) * share.longest)),
        exchange=round(2 * tokens * rows),
        logits=work.logit_bytes(tokens) if share.is_last else 0,
    )


def in_flight(layout: Layout, rank: int) -> int:
    """Micro batches whose activations of a layer range exist at once, of all layer ranges of a process together."""
    pipeline, micro_batches = layout.sizes.pipeline, layout.micro_batches
    if pipeline == 1:
        return 1
    if layout.options.pipeline_schedule == "gpipe":
        return micro_batches
    if layout.options.pipeline_schedule == "1f1b":
        return min(micro_batches, pipeline - rank)
    ranges = layout.stages_per_process
    warm_up = (ranges - 1) * pipeline + 2 * (pipeline - 1 - rank)
    return min(micro_batches * ranges, warm_up + 1)


def _activations(work: Work, layout: Layout, rows: float, kept_layers: int) -> float:
    """Bytes per token of the layers that are kept, and of the one that is computed again."""
    context = layout.sizes.context
    beside = work.expanded_bytes * (context - 1) + 2 * rows  # other processes' keys and values; rows of experts
    kept = work.kept_per_token
    if layout.checkpointing == "block":
        return kept["block"] * kept_layers + kept["none"] + beside
    return (kept[layout.checkpointing] + beside) * kept_layers


def _gathered(work: Work, layout: Layout, share: Share) -> int:
    """Whole parameters in the compute dtype, and gradients in that and in the float32 that they are reduced in."""
    if layout.sizes.pipeline > 1:
        return (1 + WIDE // work.item) * (share.root + share.all_layers)
    reduced = 1 + WIDE // work.item
    # The root stays gathered, and its gradient exists as a whole before the layers' backward passes.
    return share.root + max((GATHERED_LAYERS + reduced) * share.largest, reduced * share.root)
