"""Gated delta rule token by token, the reference implementation.

e is the erased key (erase * k) and u the written value (write * v).
"""

from __future__ import annotations

import torch

from longcat.kernels.precision import accumulation_dtype


def delta_rule(
    q_BTHK: torch.Tensor,
    k_BTHK: torch.Tensor,
    e_BTHK: torch.Tensor,
    u_BTHV: torch.Tensor,
    g_BTHK: torch.Tensor,
    state_BHKV: torch.Tensor,
    starts_BT: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `kernels.delta_rule.delta_rule`. Returns outputs and final states."""
    wide = accumulation_dtype(u_BTHV.dtype)
    inputs = [x.to(wide).unbind(1) for x in (q_BTHK, k_BTHK, e_BTHK, u_BTHV, g_BTHK)]
    outputs = []
    for token, (q_BHK, k_BHK, e_BHK, u_BHV, g_BHK) in enumerate(zip(*inputs, strict=True)):
        if starts_BT is not None:
            state_BHKV = state_BHKV.masked_fill(starts_BT[:, token, None, None, None], 0)
        o_BHV, state_BHKV = advance(q_BHK, k_BHK, e_BHK, u_BHV, g_BHK, state_BHKV)
        outputs.append(o_BHV)
    o_BTHV = torch.stack(outputs, dim=1) if outputs else u_BTHV.to(wide)
    return o_BTHV.to(u_BTHV.dtype), state_BHKV


def advance(
    q_BHK: torch.Tensor,
    k_BHK: torch.Tensor,
    e_BHK: torch.Tensor,
    u_BHV: torch.Tensor,
    g_BHK: torch.Tensor,
    state_BHKV: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [B, H, V] of one token of every row, and the states after it."""
    state_BHKV = state_BHKV * g_BHK.exp().unsqueeze(-1)
    change_BHV = u_BHV - (e_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2)
    state_BHKV = state_BHKV + k_BHK.unsqueeze(-1) @ change_BHV.unsqueeze(-2)
    return (q_BHK.unsqueeze(-2) @ state_BHKV).squeeze(-2), state_BHKV
