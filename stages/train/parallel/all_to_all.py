"""All-to-all exchange of rows within a group, overlapped with other work in forward and backward.

An exchange is two autograd nodes, start and finish, with other computation between them:

    forward     start launches,  other work,  finish waits
    backward    finish launches the reverse exchange,  the other work's gradient,  start waits

Autograd runs nodes in reverse order of creation, so the computation between start and finish is between them again in
backward. Without overlap both directions wait immediately, with the same bits.

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
        # Rows being sent must stay alive until they have arrived.
        self._outgoing: torch.Tensor | None = None
        self._gradient_RD: torch.Tensor | None = None

    def start(self, x_RD: torch.Tensor) -> torch.Tensor:
        """Launch; the result [S, D] is valid only after it is passed to `finish`."""
        pending_SD: torch.Tensor = _Start.apply(x_RD, self)
        return pending_SD

    def finish(self, pending_SD: torch.Tensor) -> torch.Tensor:
        """Received rows, in order of the sending processes."""
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
        # This is only a placeholder of the right shape: start uses the rows of the reverse exchange instead.
        return gradients[0], None


def exchange_counts(counts_PN: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """Send row p to process p: number of rows that it will receive per local expert, by sender [P, n]."""
    received_PN = torch.empty_like(counts_PN)
    dist.all_to_all_single(received_PN, counts_PN.contiguous(), group=group)
    return received_PN
