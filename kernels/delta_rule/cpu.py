"""Gated delta rule on a CPU: in chunks, and a single token directly."""

from __future__ import annotations

import torch

from longcat.kernels.delta_rule import reference
from longcat.kernels.delta_rule.chunks import ChunkRule
from longcat.kernels.delta_rule.segments import Inputs, in_segments


def delta_rule(
    q_BTHK: torch.Tensor,
    k_BTHK: torch.Tensor,
    e_BTHK: torch.Tensor,
    u_BTHV: torch.Tensor,
    g_BTHK: torch.Tensor,
    state_BHKV: torch.Tensor,
    starts_BT: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `kernels.delta_rule.delta_rule`."""
    inputs = Inputs(q_BTHK, k_BTHK, e_BTHK, u_BTHV, g_BTHK, starts_BT)
    if u_BTHV.shape[1] == 1 or 0 in (q_BTHK.numel(), u_BTHV.numel()):
        return reference.delta_rule(*inputs[:5], state_BHKV, starts_BT)
    return in_segments(ChunkRule(), inputs, state_BHKV)
