"""Sums over all processes, in one message."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist

from longcat.stages.train.parallel.mesh import Parallel


def sum_statistics(
    parallel: Parallel,
    num_layers: int,
    counts: Mapping[int, torch.Tensor],
    sums: Mapping[str, float | torch.Tensor],
) -> tuple[torch.Tensor, dict[str, float]]:
    """(counts of all layers, int64 [L, E]; the named sums) over all processes, the same on each; collective.

    `counts` [E] by layer index are those of this process's tokens in its layers, and `sums` its contribution to
    each total: replicated values are contributed by one process only, and all processes use the same names.
    """
    experts = next(iter(counts.values())).shape[0]
    # float64 holds integers up to 2^53 exactly, and lets one message carry both.
    message = torch.zeros(num_layers * experts + len(sums), dtype=torch.float64, device=parallel.device)
    counts_LE = message[: num_layers * experts].view(num_layers, experts)
    for layer, counts_E in counts.items():
        counts_LE[layer] = counts_E
    for place, value in enumerate(sums.values(), start=num_layers * experts):
        message[place] = value
    if parallel.is_distributed:
        dist.all_reduce(message)
    return counts_LE.long(), dict(zip(sums, message[num_layers * experts :].tolist(), strict=True))
