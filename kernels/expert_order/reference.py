"""Row order for grouped experts; integers only."""

from typing import NamedTuple

import torch


class ExpertOrder(NamedTuple):
    """Mappings between slots (by token) and rows (by expert).

    slot_R: the slot `t * K + k` of every row.      token_R: its token t.
    ends_N: int32, one past the last row of every expert.
    row_TK: the row of every slot, -1 for a slot that has none.
    bag_R, bag_starts_T1: the rows of token t are `bag_R[bag_starts_T1[t]:bag_starts_T1[t + 1]]`; None if no kernel
    needs them; `bags` then computes them.

    R is at least `ends_N[-1]`, the number of rows with an expert. If that number is known only on the device, R is T *
    K, and rows from `ends_N[-1]` on are padding: their slots and tokens are valid indices, but belong to no expert.
    """

    slot_R: torch.Tensor
    token_R: torch.Tensor
    ends_N: torch.Tensor
    row_TK: torch.Tensor
    bag_R: torch.Tensor | None = None
    bag_starts_T1: torch.Tensor | None = None

    def cut(self, rows: int) -> "ExpertOrder":
        """Without padding, for a caller that knows `ends_N[-1]` as `rows`."""
        if self.slot_R.shape[0] == rows:
            return self
        return self._replace(slot_R=self.slot_R[:rows], token_R=self.token_R[:rows])

    def exact(self) -> "ExpertOrder":
        """Without padding. Synchronizes with the device."""
        return self.cut(int(self.ends_N[-1]))

    def bags(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(bag_R, bag_starts_T1), R exact. Synchronizes with the device if they are not known yet."""
        if self.bag_R is None or self.bag_starts_T1 is None:
            return _bags(self.row_TK)
        return self.bag_R, self.bag_starts_T1


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """See `kernels.expert_order.expert_order`."""
    tokens, topk = experts_TK.shape
    slots_S = experts_TK.flatten()
    counts_N = torch.bincount(slots_S, minlength=num_experts)[:num_experts]
    rows = int(counts_N.sum())
    # Zero-computation experts have the highest indices, so their slots come after the last row.
    slot_R = torch.sort(slots_S, stable=True).indices[:rows]
    row_S = torch.full_like(slots_S, -1).scatter_(0, slot_R, torch.arange(rows, device=slots_S.device))
    row_TK = row_S.view(tokens, topk)
    return ExpertOrder(slot_R, slot_R // topk, counts_N.cumsum(0).to(torch.int32), row_TK, *_bags(row_TK))


def _bags(row_TK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    has_row_TK = row_TK >= 0
    starts_T1 = torch.zeros(row_TK.shape[0] + 1, dtype=torch.int64, device=row_TK.device)
    torch.cumsum(has_row_TK.sum(1), dim=0, out=starts_T1[1:])
    return row_TK[has_row_TK], starts_T1
