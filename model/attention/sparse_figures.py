"""How well chosen positions represent dense attention, measured for some queries of every row.

Names: B batch, T tokens, N queries of a tile, K chosen positions, S positions.
"""

from __future__ import annotations

import torch

from longcat.kernels.index_scores import largest
from longcat.model.attention.distillation import Target, dense_mass

QUERIES = 16  # of every row that are measured


@torch.no_grad()
def attention_figures(target: Target) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over all tokens, estimated from `QUERIES` of every row: the share of the chosen positions that are among as
    many with the greatest attention, the attention mass on the chosen ones, and the entropy of attention in nats. All
    of the mean over heads.
    """
    assert target.chosen_BTK is not None  # noqa: S101  the caller has chosen
    batch, tokens = target.q_BTHE.shape[:2]
    sums = torch.zeros(3, dtype=torch.float64, device=target.e_BSE.device)
    some = min(QUERIES, tokens)
    measured = [tokens - 1 - place * tokens // some for place in range(some)]
    for row in range(batch):
        for query in measured:
            sums += _of_query(target, row, query)
    sums *= tokens / some
    return sums[0], sums[1], sums[2]


def _of_query(target: Target, row: int, query: int) -> torch.Tensor:
    assert target.chosen_BTK is not None  # noqa: S101  see above
    part = slice(query, query + 1)
    starts_N, e_SE = target.starts_BT[row, part], target.e_BSE[row, : query + 1]
    mass_1S = dense_mass(target.q_BTHE[row, part], e_SE, target.scale, query, starts_N)
    chosen_K = target.chosen_BTK[row, query]
    chosen_K = chosen_K[chosen_K >= 0]
    best_K = largest(mass_1S, len(chosen_K))[0]
    precision = torch.isin(chosen_K, best_K).double().mean()
    seen_1S = mass_1S.clamp(min=0).double()
    return torch.stack((precision, seen_1S[0, chosen_K].sum(), -torch.xlogy(seen_1S, seen_1S).sum()))
