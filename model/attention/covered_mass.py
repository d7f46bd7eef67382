"""Attention mass on chosen positions, for every token and several choices.

Names: B batch, T tokens, S positions, N queries of a tile, H heads, E width of a position, K chosen positions, R
choices.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from longcat.model.attention.distillation import TILE_VALUES, dense_mass


@torch.no_grad()
def covered_mass(
    q_BTHE: torch.Tensor,
    e_BTE: torch.Tensor,
    scale: float,
    starts_BT: torch.Tensor,
    choices: Sequence[torch.Tensor],
) -> torch.Tensor:
    """Share [B, T, R] of the mean attention of these heads that is on the positions [B, T, K] of every choice.

    starts_BT: first position that a token sees. Absent positions of a choice are negative.
    """
    batch, tokens, heads, _ = q_BTHE.shape
    shares_BTR = torch.empty(batch, tokens, len(choices), dtype=torch.float64, device=q_BTHE.device)
    size = max(1, TILE_VALUES // (heads * tokens))
    for row in range(batch):
        for first in range(0, tokens, size):
            part = slice(first, min(tokens, first + size))
            seen_NHE, e_SE = q_BTHE[row, part], e_BTE[row, : part.stop]
            mass_NS = dense_mass(seen_NHE, e_SE, scale, first, starts_BT[row, part]).clamp(min=0)
            for place, chosen_BTK in enumerate(choices):
                chosen_NK = chosen_BTK[row, part]
                found_NK = mass_NS.gather(1, chosen_NK.clamp(min=0)).masked_fill(chosen_NK < 0, 0)
                shares_BTR[row, part, place] = found_NK.double().sum(1)
    return shares_BTR
