"""What a step looks at in how every layer routed: the load of its experts, and the balance loss.

Names: T tokens, K slots a token, L layers, E experts of both kinds, N experts with a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist

from longcat.model.config import ModelConfig
from longcat.model.moe import LayerRouting
from longcat.stages.train.balance import BiasController
from longcat.stages.train.balance_loss import BalanceCoefficient, ExpertGroups, balance_loss
from longcat.stages.train.parallel.mesh import Parallel
from longcat.stages.train.stability.config import BalanceLossOptions
from longcat.stages.train.stability.router_gradients import RouterGradients


class Load(NamedTuple):
    """How the tokens of a step were spread over the experts, layer by layer, over all processes.

    counts_LE: int64, the slots that every expert got. squares: for every layer, the sum over tokens of the squared
    number of experts with a network that a token used.
    """

    counts_LE: torch.Tensor
    squares: list[float]
    experts: int

    def mean(self, tokens: int) -> list[float]:
        """Mean number of FFN experts a token used, layer by layer."""
        slots: list[int] = self.counts_LE[:, : self.experts].sum(dim=1).tolist()
        return [count / tokens for count in slots]

    def spread(self, tokens: int) -> list[float]:
        """Standard deviation over the tokens of that number."""
        means = self.mean(tokens)
        return [max(0.0, square / tokens - mean**2) ** 0.5 for square, mean in zip(self.squares, means, strict=True)]


@dataclass(frozen=True)
class Balance:
    """The balance loss of a run: groups of experts, and the coefficient that the run moves."""

    groups: ExpertGroups
    coefficient: BalanceCoefficient

    @classmethod
    def of(cls, options: BalanceLossOptions, controller: BiasController) -> Balance | None:
        """None where the options leave it out.

        Raises:
            ValueError: the experts cannot be split into the groups asked for.
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
    """Called with the routing of every layer of every micro batch; returns the balance loss to be added, or None.

    `micro_batches` are those of the step over all processes; `gradients` are told what they need if they are wanted.
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
        if context > 1:  # a micro batch's tokens lie on several processes
            counts_E = counts_E.clone()
            dist.all_reduce(counts_E, group=self._parallel.rows_group("context"))
        frequencies_E = balance.groups.frequencies(counts_E, tokens)
        loss = balance_loss(routing.logits_TE, frequencies_E, tokens) / self._micro_batches
        self.balance_loss = self.balance_loss + loss.detach() / self.layers
        if self._gradients is not None:
            self._gradients.watch(layer, routing, frequencies_E, 1 / (self._micro_batches * context))
        return loss * balance.coefficient.value
