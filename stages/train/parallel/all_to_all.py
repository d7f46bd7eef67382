"""Rows from every process of a group to every other, behind other work in both directions.

An exchange is two nodes of the graph, its start and its finish, with something else computed between them:

    forward     start launches,  other work,  finish waits
    backward    finish launches the way back,  the other work's gradient,  start waits

Autograd runs the nodes of a backward pass in the opposite order of their making, so what lay between start and finish
lies between them again. Without overlap either direction waits where it launches, which gives the same bits.

Names: R rows sent, S rows received, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable


class Exchange:
    """One exchange: `sent` and `received` rows by process of `group`."""

    def __init__(self, group: dist.ProcessGroup, sent: list[int], received: list[int], overlap: bool) -> None:
        self.group, self.sent, self.received, self.overlap = group, sent, received, overlap
        self._work: dist.Work | None = None
        # The rows that are on their way out must live until they have arrived.
        self._outgoing: torch.Tensor | None = None
        self._gradient_RD: torch.Tensor | None = None

    def start(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Launch; the result [S, D] has values only after `finish`, which must be given it."""
        pending_SD: torch.Tensor = _Start.apply(x_RD, self)
        return pending_SD

    def finish(self, pending_SD: torch.Tensor) -> torch.Tensor:
        """The rows received, in the order of the processes that sent them."""
        x_SD: torch.Tensor = _Finish.apply(pending_SD, self)
        return x_SD

    def launch(self, outgoing: torch.Tensor, outgoing_rows: list[int], incoming_rows: list[int]) -> torch.Tensor:
        self._outgoing = outgoing.contiguous()
        incoming = outgoing.new_empty(sum(incoming_rows), *outgoing.shape[1:])
        self._work = dist.all_to_all_single(
            incoming, self._outgoing, incoming_rows, outgoing_rows, group=self.group, async_op=True
        )
        if not self.overlap:
            self.wait()
        return incoming

    def wait(self) -> None:
        if self._work is not None:
            self._work.wait()
        self._work = self._outgoing = None

    def launch_back(self, grad_SD: torch.Tensor) -> None:
        self._gradient_RD = self.launch(grad_SD, self.received, self.sent)

    def wait_back(self) -> torch.Tensor | None:
        self.wait()
        gradient_RD, self._gradient_RD = self._gradient_RD, None
        return gradient_RD


class _Start(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_RD: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        ctx.exchange = exchange
        return exchange.launch(x_RD, exchange.sent, exchange.received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.exchange.wait_back(), None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pending_SD: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        ctx.exchange = exchange
        exchange.wait()
        return pending_SD.view_as(pending_SD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        ctx.exchange.launch_back(gradients[0])
        # The gradient of what is pending is this by shape alone: the start takes the rows that come back instead.
        return gradients[0], None


def exchange_counts(counts_PN: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Row p of every process goes to process p: how many rows of which of its experts it will get, by sender [P, n]."""
    received_PN = torch.empty_like(counts_PN)
    dist.all_to_all_single(received_PN, counts_PN.contiguous(), group=group)
    return received_PN
