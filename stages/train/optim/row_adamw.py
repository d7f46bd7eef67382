"""AdamW for tables of which a step reads few rows: n-gram tables.

A row takes part in the steps in which its gradient is not zero, and only in these. In each of them

    t <- t + 1;  m <- beta1 m + (1 - beta1) g;  v <- beta2 v + (1 - beta2) g^2
    row <- row - rate (decay row + m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps))

with a count t of its own. So a row's values are those of AdamW over the steps that have a gradient for it; between
these, neither moments nor weight decay move. Moments exist for the rows that had a gradient so far: memory grows with
these, in parts of a quarter. With `cautious`, only the values that the update makes smaller decay.

The result does not depend on whether gradients are sparse tensors, dense ones, or shards of dense ones.

Names: N rows with a gradient, C rows with moments, R rows of this process's part of a table, W values of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from longcat.pipeline.errors import IntegrityError
from longcat.stages.train.optim.cautious import decay
from longcat.stages.train.optim.joined import JoinedOptimizer
from longcat.stages.train.parallel.state import local_part

ROW_KEYS = ("rows", "exp_avg", "exp_avg_sq", "step")
GROWTH = 1.25
FIRST_ROWS = 1024


class RowAdamW(JoinedOptimizer):
    """AdamW by row for its own groups; see `optim.joined`.

    Own groups have `betas`, `eps`, `decay` and `cautious`. The state of a table: `rows` (int64 [C], their numbers in
    the whole table, in the order of their first gradients), `exp_avg` and `exp_avg_sq` [C, W], `step` (int32 [C]).
    """

    def __init__(self, groups: Sequence[Mapping[str, Any]], rest: torch.optim.Optimizer) -> None:
        super().__init__([{**group, "by_row": True} for group in groups], rest)

    def update(self, group: Mapping[str, Any]) -> None:
        for table in group["params"]:
            if table.grad is not None:
                self._update(group, table)

    def _update(self, group: Mapping[str, Any], table: nn.Parameter) -> None:
        x_RW, bounds = local_part(table.detach())
        places_N, g_NW = rows_with_gradient(table.grad)
        state = self.state[table]
        slots_N = _slots(state, places_N, bounds[0], x_RW)
        (beta1, beta2), rate = group["betas"], group["lr"]
        m_NW = state["exp_avg"].index_select(0, slots_N).lerp_(g_NW, 1 - beta1)
        v_NW = state["exp_avg_sq"].index_select(0, slots_N).mul_(beta2).addcmul_(g_NW, g_NW, value=1 - beta2)
        t_N = state["step"].index_select(0, slots_N) + 1
        for key, values in (("exp_avg", m_NW), ("exp_avg_sq", v_NW), ("step", t_N)):
            state[key].index_copy_(0, slots_N, values)
        # In float64: beta2^t is close to one.
        first_N1, second_N1 = ((1 - beta ** t_N.double()).to(x_RW.dtype).unsqueeze(1) for beta in (beta1, beta2))
        update_NW = m_NW.div_(first_N1).div_(v_NW.sqrt_().div_(second_N1.sqrt_()).add_(group["eps"]))
        x_NW = x_RW.index_select(0, places_N)
        decay(x_NW, update_NW, rate * group["decay"], cautious=group["cautious"])
        x_RW.index_copy_(0, places_N, x_NW.add_(update_NW, alpha=-rate))


def rows_with_gradient(gradient: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in this process's part (int64 [N], ascending) and gradients [N, W] of rows whose gradient is not zero."""
    if gradient is None:
        raise ValueError("the table has no gradient")
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        places_N, g_NW = gradient.indices()[0], gradient.values()
        kept_N = g_NW.ne(0).any(dim=1)
        return (places_N, g_NW) if kept_N.all() else (places_N[kept_N], g_NW[kept_N])
    g_RW = local_part(gradient)[0]
    places_N = g_RW.ne(0).any(dim=1).nonzero().flatten()
    return places_N, g_RW[places_N]


def _slots(state: dict[str, Any], places_N: torch.Tensor, held: range, x_RW: torch.Tensor) -> torch.Tensor:
    """Places of rows in the state, which gets room for those that have none yet."""
    if "rows" not in state:
        for key, (shape, dtype) in shapes(0, x_RW.shape[1], x_RW.dtype).items():
            state[key] = x_RW.new_empty(shape, dtype=dtype)
    if "slot_of" not in state:  # at the first step, and after the state was loaded
        known = state["rows"] - held.start
        state["slot_of"] = torch.full((len(held),), -1, dtype=torch.int32, device=x_RW.device)
        state["slot_of"][known] = torch.arange(len(known), dtype=torch.int32, device=x_RW.device)
        state["memory"] = {key: state[key] for key in ROW_KEYS}
    slot_of_R, count = state["slot_of"], len(state["rows"])
    new_M = places_N[slot_of_R[places_N] < 0]
    if len(new_M):
        length = count + len(new_M)
        slot_of_R[new_M] = torch.arange(count, length, dtype=torch.int32, device=new_M.device)
        for key, memory in state["memory"].items():
            state["memory"][key] = with_room(memory, count, length, len(held))
            state[key] = state["memory"][key][:length]
        state["rows"][count:] = new_M + held.start
    return slot_of_R[places_N].long()


def shapes(count: int, width: int, dtype: torch.dtype) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and dtype of every part of the state of `count` rows."""
    moment = (count, width), dtype
    return {"rows": ((count,), torch.int64), "exp_avg": moment, "exp_avg_sq": moment, "step": ((count,), torch.int32)}


def with_room(memory: torch.Tensor, used: int, length: int, most: int) -> torch.Tensor:
    """`memory` if it is long enough; otherwise its first `used` rows, then zeros, with a quarter to spare."""
    if len(memory) >= length:
        return memory
    longer = memory.new_zeros(max(length, min(most, max(FIRST_ROWS, round(GROWTH * length)))), *memory.shape[1:])
    longer[:used] = memory[:used]
    return longer


def row_state(name: str, table: nn.Parameter, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """State of this process's rows of a table, from those of all by full name.

    Raises:
        IntegrityError: a tensor is missing, or does not fit the table.
    """
    rows = tensors.get(f"{name}.rows")
    expected = shapes(0 if rows is None else len(rows), table.shape[1], table.dtype)
    for key, (shape, _) in expected.items():
        found = tensors.get(f"{name}.{key}")
        if found is None or tuple(found.shape) != shape:
            told = "nothing" if found is None else tuple(found.shape)
            raise IntegrityError(f"optimizer state {name}.{key}: expected {shape}, found {told}")
    assert rows is not None  # noqa: S101  checked with the others
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < table.shape[0]:
        raise IntegrityError(f"optimizer state {name}.rows: row {int(rows.max())} of a table of {table.shape[0]} rows")
    if len(rows.unique()) != len(rows):
        raise IntegrityError(f"optimizer state {name}.rows: a row is there twice")
    held = local_part(table)[1][0]
    kept = (rows >= held.start) & (rows < held.stop)
    return {key: tensors[f"{name}.{key}"][kept].to(table.device, dtype) for key, (_, dtype) in expected.items()}
