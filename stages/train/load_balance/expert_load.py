"""Routing statistics of a step: expert load, and the balance loss.

Names: T tokens, K slots per token, L layers, E experts of both kinds, N FFN experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from longcat.model.config import ModelConfig
from longcat.model.moe.mixture import LayerRouting
from longcat.stages.train.load_balance.controller import BiasController
from longcat.stages.train.load_balance.device_loss import BalanceCoefficient, ExpertGroups, balance_loss
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.stability.config import BalanceLossOptions
from longcat.stages.train.stability.router_gradients import RouterGradients


class Load(NamedTuple):
    """Distribution of the tokens of a step over the experts, per layer, over all processes.

    counts_LE: int64, slots per expert. squares: per layer, the sum over tokens of the squared number of FFN experts
        used.
    """

    counts_LE: torch.Tensor
    squares: list[float]
    experts: int

    def mean(self, tokens: int) -> list[float]:
        """Mean number of FFN experts per token, by layer."""
        slots: list[int] = self.counts_LE[:, : self.experts].sum(dim=1).tolist()
        return [count / tokens for count in slots]

    def spread(self, tokens: int) -> list[float]:
        """Standard deviation of that number over tokens."""
        means = self.mean(tokens)
        return [max(0.0, square / tokens - mean**2) ** 0.5 for square, mean in zip(self.squares, means, strict=True)]


@dataclass(frozen=True)
class Balance:
    """Balance loss of a run: expert groups, and the coefficient."""

    groups: ExpertGroups
    coefficient: BalanceCoefficient

    @classmethod
    def of(cls, options: BalanceLossOptions, controller: BiasController) -> Balance | None:
        """Build it; None if the options disable it.

        Raises:
            ValueError: the experts cannot be split into the requested groups.
        """
        if not options.enabled:
            return None
        groups = ExpertGroups.of(
            options,
            experts=controller.experts,
            zero_experts=controller.zero_experts,
            topk=controller.topk,
            target=controller.target,
        )
        return cls(groups, BalanceCoefficient(options))


class RoutingObserver:
    """Called with the routing of every layer of every micro batch; returns the balance loss to add, or None.

    `micro_batches` are those of the step over all processes; `gradients` collects router gradients, if measured.
    """

    def __init__(
        self,
        config: ModelConfig,
        parallel: Parallel,
        balance: Balance | None,
        micro_batches: int,
        gradients: RouterGradients | None,
    ) -> None:
        self.experts, self.layers = config.n_routed_experts, config.num_layers
        self.counts: dict[int, torch.Tensor] = {}
        self.squares: dict[int, torch.Tensor] = {}
        self.balance_loss: torch.Tensor | float = 0.0
        self._parallel, self._balance = parallel, balance
        self._micro_batches, self._gradients = micro_batches, gradients

    def __call__(self, layer: int, routing: LayerRouting) -> torch.Tensor | None:
        squares = (routing.experts_TK < self.experts).sum(dim=1).square().sum()
        self.squares[layer] = self.squares[layer] + squares if layer in self.squares else squares
        self.counts[layer] = self.counts[layer] + routing.counts_E if layer in self.counts else routing.counts_E
        return None if self._balance is None else self._weighed(layer, routing, self._balance)

    def _weighed(self, layer: int, routing: LayerRouting, balance: Balance) -> torch.Tensor:
        counts_E, context = routing.counts_E, self._parallel.sizes.context
        tokens = routing.experts_TK.shape[0] * context
        if context > 1:  # the tokens of a micro batch are on several processes
            counts_E = counts_E.clone()
            dist.all_reduce(counts_E, group=self._parallel.rows_group("context"))
        frequencies_E = balance.groups.frequencies(counts_E, tokens)
        loss = balance_loss(routing.logits_TE, frequencies_E, tokens) / self._micro_batches
        self.balance_loss = self.balance_loss + loss.detach() / self.layers
        if self._gradients is not None:
            self._gradients.watch(layer, routing, frequencies_E, 1 / (self._micro_batches * context))
        return loss * balance.coefficient.value
