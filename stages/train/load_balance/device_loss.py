"""Device-level balance loss and its coefficient (LongCat-Flash report, eq. 3 to 5 and section 3.1.3).

    L_LB = alpha * sum over groups j of  f_j P_j              D groups of N/D consecutive FFN experts, and the Z
    zero-computation experts P_j  = mean over the tokens of the summed scores of the group's experts f_j  = D / (K_e T)
    * slots of group j                     f_{D+1} = slots of those Z / ((K - K_e) T)

The scores are the softmax over all experts, without the selection bias. Slots are counted with multiplicity, so a token
that selects two experts of a group counts twice; at balance every f is one. Only P has a gradient. So the loss is
`sum over t and i of f_group(i) R(x_t)_i / T`: one product of the scores with a vector.

R_g = || alpha grad_P L_LB || / || grad_P L_LM || compares the gradients of this loss and all others with respect to the
mean scores P; the report keeps it below 0.1 in every layer. It is proportional to alpha, so one measurement determines
the update of alpha. `stages.train.stability.router_gradients` measures it.

Names: T tokens, N FFN experts, E experts of both kinds, D groups, L layers.
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
    """Expert groups of one model: `experts` N, `zero_experts` Z, `topk` K, `target` K_e, `groups` D."""

    experts: int
    zero_experts: int
    topk: int
    target: float
    groups: int

    @classmethod
    def of(
        cls, options: BalanceLossOptions, *, experts: int, zero_experts: int, topk: int, target: float
    ) -> ExpertGroups:
        """Resolve options that are null; `target` is that of `load_balance.controller.BiasController`.

        Raises:
            ValueError: the experts cannot be split into that many groups of one size.
        """
        return cls(experts, zero_experts, topk, target, expert_groups(options, experts))

    def frequencies(self, counts_E: torch.Tensor, tokens: int) -> torch.Tensor:
        """f of every expert's group, float64 [E]; `counts_E` are the slots of the experts among `tokens` tokens.

        Zero for zero-computation experts if there are none, or if no slots are intended for them.
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
    """Loss of one layer without its coefficient, a scalar in the dtype of `logits_TE`.

    `tokens` are those of the whole micro batch. If it is distributed, `frequencies_E` and `tokens` are global and
    `logits_TE` local: the losses and gradients sum to the total.
    """
    return (logits_TE.softmax(dim=-1) @ frequencies_E.to(logits_TE.dtype)).sum() / tokens


class BalanceCoefficient:
    """Coefficient alpha. With `auto` it is zero until R_g has been measured, and updated after every measurement."""

    def __init__(self, options: BalanceLossOptions) -> None:
        self.options = options
        self.automatic = options.coefficient == "auto"
        self.value = 0.0 if options.coefficient == "auto" else options.coefficient
        if not options.enabled:
            self.automatic, self.value = False, 0.0

    @property
    def wants_measurement(self) -> bool:
        """Whether alpha is undetermined, so that the first step of a run must be measured."""
        return self.automatic and self.value == 0.0

    def update(self, unit_ratios: Sequence[float]) -> None:
        """Update an automatic alpha from R_g / alpha of every layer.

        The first measurement sets the mean of R_g to its target; each later one moves half way in log scale, by at most
        a factor of two. Afterwards no layer exceeds the limit by this measurement. Layers without a gradient (zero, or
        not finite) are ignored.
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
        """State saved in checkpoints of the run."""
        return {"coefficient": self.value}

    def restore(self, state: dict[str, float]) -> None:
        """Restore the result of `state`; a coefficient set by the options is kept."""
        if self.automatic:
            self.value = float(state["coefficient"])
