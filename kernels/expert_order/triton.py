"""Row order on GPUs, with a row for every slot, because the actual number of rows is known only on the device.

Few slots, as in decoding, are ordered in one launch: the row of a slot is the number of slots that come before it in
the order. More slots are sorted by torch with a stable sort, and one kernel computes both mappings and, by bisection,
the ends.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.expert_order.reference import ExpertOrder

FEW_SLOTS = 4096  # the cost of counting grows quadratically
BLOCK, AT_ONCE = 32, 256  # slots per program, and slots that they are compared with at a time
SORTED_BLOCK = 256


@triton.jit
def _count_kernel(
    experts_ptr, slot_ptr, token_ptr, row_ptr, ends_ptr, slots, topk, experts, BLOCK: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Compute the rows of BLOCK slots, and the ends of BLOCK experts."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    own = tl.load(experts_ptr + place, mask=place < slots, other=0).to(tl.int32)
    row, end = tl.zeros((BLOCK,), dtype=tl.int32), tl.zeros((BLOCK,), dtype=tl.int32)
    for start in range(0, slots, AT_ONCE):
        other = start + tl.arange(0, AT_ONCE)
        known = (other < slots)[None, :]
        expert = tl.load(experts_ptr + other, mask=other < slots, other=0).to(tl.int32)
        earlier = (expert[None, :] == own[:, None]) & (other[None, :] < place[:, None])
        row += tl.sum((known & (earlier | (expert[None, :] < own[:, None]))).to(tl.int32), 1)
        end += tl.sum((known & (expert[None, :] <= place[:, None])).to(tl.int32), 1)
    tl.store(slot_ptr + row, place, mask=place < slots)
    tl.store(token_ptr + row, place // topk, mask=place < slots)
    tl.store(row_ptr + place, tl.where(own < experts, row, -1), mask=place < slots)
    tl.store(ends_ptr + place, end, mask=place < experts)


@triton.jit
def _sorted_kernel(
    sorted_ptr, slot_ptr, token_ptr, row_ptr, ends_ptr, slots, topk, experts, halvings, BLOCK: tl.constexpr
):
    """Compute the mappings of BLOCK sorted slots, and the ends of BLOCK experts."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < slots
    expert, slot = tl.load(sorted_ptr + place, mask=inside), tl.load(slot_ptr + place, mask=inside, other=0)
    tl.store(token_ptr + place, slot // topk, mask=inside)
    tl.store(row_ptr + slot, tl.where(expert < experts, place, -1), mask=inside)
    low, high = tl.zeros_like(place), tl.zeros_like(place) + slots
    for _ in range(halvings):
        middle = (low + high) // 2
        below = tl.load(sorted_ptr + middle, mask=low < high, other=experts) <= place
        low, high = tl.where((low < high) & below, middle + 1, low), tl.where(below, high, middle)
    tl.store(ends_ptr + place, low, mask=place < experts)


def expert_order(experts_TK: torch.Tensor, num_experts: int) -> ExpertOrder:
    """See `kernels.expert_order.expert_order`; R is T * K."""
    (_, topk), slots, device = experts_TK.shape, experts_TK.numel(), experts_TK.device
    row_TK = torch.empty(experts_TK.shape, dtype=torch.int64, device=device)
    token_R = torch.empty(slots, dtype=torch.int64, device=device)
    ends_N = torch.empty(num_experts, dtype=torch.int32, device=device)
    if slots <= FEW_SLOTS:
        slot_R = torch.empty_like(token_R)
        _count_kernel[(triton.cdiv(max(slots, num_experts), BLOCK),)](
            experts_TK.contiguous(), slot_R, token_R, row_TK, ends_N, slots, topk, num_experts, BLOCK=BLOCK,
            AT_ONCE=AT_ONCE,
        )  # fmt: skip
    else:
        sorted_R, slot_R = torch.sort(experts_TK.flatten(), stable=True)
        _sorted_kernel[(triton.cdiv(max(slots, num_experts), SORTED_BLOCK),)](
            sorted_R, slot_R, token_R, row_TK, ends_N, slots, topk, num_experts, slots.bit_length(), BLOCK=SORTED_BLOCK
        )
    return ExpertOrder(slot_R, token_R, ends_N, row_TK)


def launches(chip: Chip) -> list[Launch]:
    """Launches for 12 slots per token."""
    names = ("experts_ptr", "sorted_ptr", "slot_ptr", "token_ptr", "row_ptr")
    arguments: dict[str, Any] = dict.fromkeys(names, "*i64") | {"ends_ptr": "*i32"}
    arguments |= dict.fromkeys(("slots", "topk", "experts", "halvings"), "i32")
    return [
        Launch("few slots", _count_kernel, arguments, {"BLOCK": BLOCK, "AT_ONCE": AT_ONCE}),
        Launch("sorted slots", _sorted_kernel, arguments, {"BLOCK": SORTED_BLOCK}),
    ]
