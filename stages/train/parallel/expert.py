"""Expert parallelism: every process holds a range of a layer's experts and computes the rows sent by all.

    dispatch    sort rows by expert, without zero-computation experts; exchange counts; start sending rows
    compute     sort received rows by expert, run the networks, unsort, start sending back
    combine     receive rows, and compute the weighted sum of every token's rows in slot order

The sum has the same order as in a single process, so the placement of experts does not change it.

Names: T tokens, D width, K slots per token, R rows of this process, S rows received, N FFN experts, n local ones, P
    processes that share the experts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from longcat.kernels.expert_combine import expert_combine
from longcat.kernels.expert_gather import expert_gather
from longcat.kernels.expert_order import ExpertOrder, expert_order
from longcat.kernels.grouped_mlp import grouped_mlp
from longcat.kernels.router import Routing
from longcat.model.moe.mixture import Experts, MixtureOfExperts
from longcat.model.transformer import LongcatFlash
from longcat.stages.train.parallel.all_to_all import Exchange, exchange_counts
from longcat.stages.train.parallel.mesh import Parallel


class Dispatched(NamedTuple):
    """Rows in flight, to their experts or back; `pending` is invalid before the exchange is finished."""

    pending: torch.Tensor
    exchange: Exchange
    received_PN: torch.Tensor
    weights_TK: torch.Tensor
    order: ExpertOrder


class ExpertParallelExperts(Experts):
    """Experts of a layer, of which this process holds N / P; weights are DTensors of all N."""

    def __init__(self, whole: Experts, mesh: DeviceMesh, overlap: bool) -> None:
        nn.Module.__init__(self)
        self.group: dist.ProcessGroup = mesh.get_group()
        self.overlap = overlap
        self.num_experts = whole.down_proj.shape[0]
        self.gate_up_proj = _dealt_out(whole.gate_up_proj, mesh)
        self.down_proj = _dealt_out(whole.down_proj, mesh)

    def dispatch(self, x_TD: torch.Tensor, routing: Routing) -> Dispatched:
        order = expert_order(routing.experts_TK, self.num_experts)
        sent_PN = order.ends_N.diff(prepend=order.ends_N.new_zeros(1)).view(self.group.size(), -1)
        received_PN = exchange_counts(sent_PN, self.group)
        sent, received = torch.stack((sent_PN.sum(1), received_PN.sum(1))).tolist()
        order = order.cut(sum(sent))
        exchange = Exchange(self.group, sent, received, self.overlap)
        pending_SD = exchange.start(expert_gather(x_TD, order))
        return Dispatched(pending_SD, exchange, received_PN, routing.weights_TK, order)

    def compute(self, sent: Dispatched) -> Dispatched:
        by_expert_S, by_sender_S = _orders(sent.received_PN)
        rows_SD = permute(sent.exchange.finish(sent.pending), by_expert_S, by_sender_S)
        ends_N = sent.received_PN.sum(0).cumsum(0).to(torch.int32)
        rows_SD = grouped_mlp(rows_SD, _local(self.gate_up_proj), _local(self.down_proj), ends_N)
        home = Exchange(self.group, sent.exchange.received, sent.exchange.sent, self.overlap)
        return sent._replace(pending=home.start(permute(rows_SD, by_sender_S, by_expert_S)), exchange=home)

    def combine(self, computed: Dispatched) -> torch.Tensor:
        rows_RD = computed.exchange.finish(computed.pending)
        return expert_combine(rows_RD, computed.weights_TK, computed.order)


def distribute_experts(model: LongcatFlash, parallel: Parallel) -> None:
    """Replace the experts of every layer by this process's range of them, in place."""
    assert parallel.expert_mesh is not None  # noqa: S101  there are several processes
    mesh = parallel.expert_mesh["expert"]
    for module in model.modules():
        if isinstance(module, MixtureOfExperts):
            module.experts = ExpertParallelExperts(module.experts, mesh, parallel.options.overlap)


def _dealt_out(whole: nn.Parameter, mesh: DeviceMesh) -> nn.Parameter:
    rank = mesh.get_local_rank()
    own = whole.detach().chunk(mesh.size())[rank].contiguous()
    return nn.Parameter(DTensor.from_local(own, mesh, [Shard(0)], run_check=False))


def _local(weight: torch.Tensor) -> torch.Tensor:
    return weight.to_local() if isinstance(weight, DTensor) else weight


def _orders(received_PN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows arrive by sender, then expert. Returns the permutation to expert, then sender order, and its inverse."""
    senders, experts = received_PN.shape
    expert_X = torch.arange(experts, device=received_PN.device).repeat(senders)
    expert_S = expert_X.repeat_interleave(received_PN.flatten())
    by_expert_S = expert_S.argsort(stable=True)
    by_sender_S = torch.empty_like(by_expert_S)
    by_sender_S[by_expert_S] = torch.arange(len(by_expert_S), device=by_expert_S.device)
    return by_expert_S, by_sender_S


class _Permute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_SD: torch.Tensor, order_S: torch.Tensor, back_S: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(back_S)
        return x_SD.index_select(0, order_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (back_S,) = ctx.saved_tensors
        return gradients[0].index_select(0, back_S), None, None


def permute(x_SD: torch.Tensor, order_S: torch.Tensor, back_S: torch.Tensor) -> torch.Tensor:
    """`x_SD[order_S]` for a permutation and its inverse; the backward is a gather too, instead of an index_add."""
    y_SD: torch.Tensor = _Permute.apply(x_SD, order_S, back_S)
    return y_SD
