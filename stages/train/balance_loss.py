"""The device-level balance loss and its coefficient (LongCat-Flash report, eq. 3 to 5 and section 3.1.3).

    L_LB = alpha * sum over groups j of  f_j P_j              D groups of N/D consecutive FFN experts, and the Z others
    P_j  = mean over the tokens of the summed scores of the group's experts
    f_j  = D / (K_e T) * slots of group j                     f_{D+1} = slots of the others / ((K - K_e) T)

The scores are the softmax over all experts, without the selection bias. Slots are counted with multiplicity, a token
that selects two experts of a group twice, which makes every f one at balance. Only P has a gradient. So the loss is
`sum over t and i of f_group(i) R(x_t)_i / T`: one product of the scores with a vector.

R_g = || alpha grad_P L_LB || / || grad_P L_LM || compares the loss with all others where both act, on the mean
scores P; the report keeps it below 0.1 in every layer. As it is proportional to alpha, one measurement tells where to
move alpha. `stages.train.stability.router_gradients` takes it.

Names: T tokens, N experts with a network, E experts of both kinds, D groups, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from longcat.stages.train.stability.config import BalanceLossOptions, expert_groups

LARGEST_MOVE = 2.0


@dataclass(frozen=True)
class ExpertGroups:
    """The groups of one model's experts: `experts` N, `zero_experts` Z, `topk` K, `target` K_e, `groups` D."""

    experts: int
    zero_experts: int
    topk: int
    target: float
    groups: int

    @classmethod
    def of(
        cls, options: BalanceLossOptions, *, experts: int, zero_experts: int, topk: int, target: float
    ) -> ExpertGroups:
        """Fill in what the options leave open; `target` is that of `stages.train.balance.BiasController`.

        Raises:
            ValueError: the experts cannot be split into that many groups of one size.
        """
        return cls(experts, zero_experts, topk, target, expert_groups(options, experts))

    def frequencies(self, counts_E: torch.Tensor, tokens: int) -> torch.Tensor:
        """f of every expert's group, float64 [E]; `counts_E` are the slots of the experts among `tokens` tokens.

        Zero where the zero-computation experts are left out: there are none, or no slot is meant for them.
        """
        wide_E = counts_E.double()
        slots_D = wide_E[: self.experts].view(self.groups, -1).sum(dim=1)
        f_D = slots_D * (self.groups / (self.target * tokens))
        idle = self.topk - self.target
        f_zero = (
            wide_E[self.experts :].sum() / (idle * tokens) if self.zero_experts and idle > 0 else slots_D.new_zeros(())
        )
        f_N = f_D.repeat_interleave(self.experts // self.groups, output_size=self.experts)
        return torch.cat((f_N, f_zero.expand(self.zero_experts)))


def balance_loss(logits_TE: torch.Tensor, frequencies_E: torch.Tensor, tokens: int) -> torch.Tensor:
    """The loss of one layer without its coefficient, a scalar in the dtype of `logits_TE`.

    `tokens` are those of the whole micro batch. Where they are spread over devices, `frequencies_E` and `tokens` are
    of all of them and `logits_TE` are the local ones: the losses, and so the gradients, add up.
    """
    return (logits_TE.softmax(dim=-1) @ frequencies_E.to(logits_TE.dtype)).sum() / tokens


class BalanceCoefficient:
    """alpha. With `auto` it is zero until R_g has been measured, and moved after every measurement."""

    def __init__(self, options: BalanceLossOptions) -> None:
        self.options = options
        self.automatic = options.coefficient == "auto"
        self.value = 0.0 if options.coefficient == "auto" else options.coefficient
        if not options.enabled:
            self.automatic, self.value = False, 0.0

    @property
    def wants_measurement(self) -> bool:
        """Whether alpha is still to be found, so that the first step of a run has to be measured."""
        return self.automatic and self.value == 0.0

    def update(self, unit_ratios: Sequence[float]) -> None:
        """Move an automatic alpha by R_g / alpha of every layer.

        The first measurement puts the mean of R_g at its target; each later one goes half the way there in the
        logarithm, by a factor of two at most. After either, no layer exceeds the limit by this measurement. Layers
        without a gradient (zero, or not finite) do not count.
        """
        usable = [ratio for ratio in unit_ratios if math.isfinite(ratio) and ratio > 0]
        if not self.automatic or not usable:
            return
        aim = self.options.target_ratio * len(usable) / math.fsum(usable)
        if self.value > 0:
            step = min(max(math.sqrt(aim / self.value), 1 / LARGEST_MOVE), LARGEST_MOVE)
            aim = self.value * step
        self.value = min(aim, self.options.limit_ratio / max(usable))

    def state(self) -> dict[str, float]:
        """What a checkpoint of the run keeps."""
        return {"coefficient": self.value}

    def restore(self, state: dict[str, float]) -> None:
        """Take up what `state` gave; a coefficient set by the options stays as they say."""
        if self.automatic:
            self.value = float(state["coefficient"])
