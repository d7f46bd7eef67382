"""Experts on packed matrices: two products per selected FFN expert, and everything else once for all rows.

Identity experts are added here too: a single token needs one call for them.

Names: T tokens, K slots per token, R rows (slots with an expert that has a network), D hidden, F expert width, G = 2F.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from longcat.kernels.expert_order import expert_order
from longcat.kernels.packed_linear import PackedMatrix, Rows
from longcat.kernels.router import Routing

FEW_SLOTS = 64  # up to here Python sorts faster than torch


class Order(NamedTuple):
    """Selected experts and the rows of each, in the order of experts; token of each row; and by token the rows to sum.

    bag_R are rows, in the order of slots, and slot_R their slots; token t sums those from `starts_T[t]` on.
    """

    experts: list[int]
    lengths: list[int]
    token_R: torch.Tensor
    bag_R: torch.Tensor
    slot_R: torch.Tensor
    starts_T: torch.Tensor


class PackedExperts(nn.Module):
    """`model.moe.mixture.Experts`: a packed matrix for each expert and projection; gate and up are one.

    identity: experts from this index on return their input, as `IdentityExperts`; None if there are none.
    """

    def __init__(
        self, gate_up: Sequence[PackedMatrix], down: Sequence[PackedMatrix], identity: int | None = None
    ) -> None:
        super().__init__()
        self.gate_up, self.down, self.identity = tuple(gate_up), tuple(down), identity

    def dispatch(self, x_TD: torch.Tensor, routing: Routing) -> Any:
        return x_TD, routing

    def compute(self, sent: Any) -> Any:
        x_TD, routing = sent
        if len(x_TD) == 1:
            return self._single(x_TD, routing)
        y_TD = self._sums(x_TD, routing)
        if self.identity is None:
            return y_TD
        share_TK = routing.weights_TK.masked_fill(routing.experts_TK < self.identity, 0.0)
        return y_TD.addcmul_(x_TD, share_TK.sum(dim=1, keepdim=True))

    def _sums(self, x_TD: torch.Tensor, routing: Routing) -> torch.Tensor:
        """Weighted sums of the outputs of the FFN experts [T, D]."""
        order = self.order(routing)
        if not order.experts:
            return torch.zeros_like(x_TD)
        out_RD = self._networks(x_TD, order)
        weights_R = routing.weights_TK.flatten().index_select(0, order.slot_R)
        return F.embedding_bag(order.bag_R, out_RD, order.starts_T, mode="sum", per_sample_weights=weights_R)

    def _single(self, x_1D: torch.Tensor, routing: Routing) -> torch.Tensor:
        """`compute` of one token, in the order of its slots."""
        chosen_K, weights_K = routing.experts_TK.tolist()[0], routing.weights_TK.tolist()[0]
        slots = tuple(slot for slot, expert in enumerate(chosen_K) if expert < len(self.down))
        if slots:
            out_RD = self._networks_of_one(x_1D, [chosen_K[slot] for slot in slots])
            y_1D = torch.mm(_of_slots(routing.weights_TK, slots), out_RD)
        else:
            y_1D = torch.zeros_like(x_1D)
        if self.identity is None:
            return y_1D
        share = sum(weight for expert, weight in zip(chosen_K, weights_K, strict=True) if expert >= self.identity)
        return y_1D.add_(x_1D, alpha=share) if share else y_1D

    def _networks_of_one(self, x_1D: torch.Tensor, experts: Sequence[int]) -> torch.Tensor:
        """Outputs of different experts for one token [R, D]."""
        one = self.gate_up[0].enter(x_1D)
        products = [self.gate_up[expert].product(one.values_NJ) for expert in experts]
        rows = self.down[0].enter(self.activate(self.gate_up[0].leave(torch.cat(products), one)))
        pieces = rows.values_NJ.split_with_sizes([1] * len(experts))
        products = [self.down[expert].product(row) for expert, row in zip(experts, pieces, strict=True)]
        return self.down[0].leave(torch.cat(products), rows)

    def order(self, routing: Routing) -> Order:
        """Rows of the experts."""
        count = len(self.down)
        return _few(routing.experts_TK, count) if routing.experts_TK.numel() <= FEW_SLOTS else _many(routing, count)

    def activate(self, hidden_RG: torch.Tensor) -> torch.Tensor:
        """Input of the down-projection [R, F]."""
        gate_RF, up_RF = hidden_RG.chunk(2, dim=1)
        return F.silu(gate_RF).mul_(up_RF)

    def combine(self, computed: Any) -> torch.Tensor:
        y_TD: torch.Tensor = computed
        return y_TD

    def _networks(self, x_TD: torch.Tensor, order: Order) -> torch.Tensor:
        """Outputs of the experts [R, D] for the rows in their order."""
        entered = self.gate_up[0].enter(x_TD)
        scale_R1 = None if entered.scale_N1 is None else entered.scale_N1.index_select(0, order.token_R)
        rows = Rows(entered.values_NJ.index_select(0, order.token_R), scale_R1)
        active_RF = self.activate(_each(self.gate_up, order, rows))
        return _each(self.down, order, self.down[0].enter(active_RF))

    def extra_repr(self) -> str:
        first, last = self.gate_up[0], self.down[0]
        return f"{len(self.down)} x ({first.inputs} -> {last.inputs}), {first.form} and {last.form}"


def _each(matrices: Sequence[PackedMatrix], order: Order, rows: Rows) -> torch.Tensor:
    pieces = rows.values_NJ.split_with_sizes(order.lengths)
    products = [matrices[expert].product(piece) for expert, piece in zip(order.experts, pieces, strict=True)]
    return matrices[0].leave(torch.cat(products), rows)


def _of_slots(weights_1K: torch.Tensor, slots: tuple[int, ...]) -> torch.Tensor:
    return weights_1K if len(slots) == weights_1K.shape[1] else weights_1K.index_select(1, _index(slots))


@lru_cache(maxsize=256)
def _index(values: tuple[int, ...]) -> torch.Tensor:
    return torch.tensor(values)


def _few(experts_TK: torch.Tensor, count: int) -> Order:
    tokens, topk = experts_TK.shape
    chosen = [(expert, slot) for slot, expert in enumerate(experts_TK.flatten().tolist()) if expert < count]
    by_expert = sorted(chosen)
    groups = [(expert, sum(1 for _ in rows)) for expert, rows in groupby(by_expert, key=lambda pair: pair[0])]
    row_of_slot = {slot: row for row, (_, slot) in enumerate(by_expert)}
    starts = [0] * (tokens + 1)
    for _, slot in chosen:
        starts[slot // topk + 1] += 1
    for token in range(tokens):
        starts[token + 1] += starts[token]
    slots = [slot for _, slot in chosen]
    rows = len(slots)
    indices = torch.tensor(
        [*(slot // topk for _, slot in by_expert), *(row_of_slot[slot] for slot in slots), *slots, *starts[:tokens]]
    )
    return Order(
        [expert for expert, _ in groups],
        [length for _, length in groups],
        *indices.split_with_sizes((rows, rows, rows, tokens)),
    )


def _many(routing: Routing, count: int) -> Order:
    order = expert_order(routing.experts_TK, count).exact()
    ends = order.ends_N.tolist()
    lengths = [end - start for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    experts = [expert for expert, length in enumerate(lengths) if length]
    bag_R, starts_T1 = order.bags()
    slot_R = (order.row_TK.flatten() >= 0).nonzero().squeeze(1)
    return Order(experts, [lengths[expert] for expert in experts], order.token_R, bag_R, slot_R, starts_T1[:-1])
