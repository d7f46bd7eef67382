"""Device-level balance loss and its coefficient (LongCat-Flash report, eq. 3 to 5 and section 3.1.3).

    L_LB = alpha * sum over groups j of  f_j P_j

The groups are D groups of N/D consecutive FFN experts, and the Z zero-computation experts (group D + 1). P_j is the
mean over the tokens of the summed scores of the group's experts; f_j = D / (K_e T) * slots of group j, and
f_{D+1} = slots of those Z / ((K - K_e) T).

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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from longcat.stages.train.stability.config import BalanceLossOptions, expert_groups
from longcat.stages.train.stability.measure import due

LARGEST_MOVE = 2.0
# R_g of one batch is noisy (a standard deviation of its logarithm of 0.7 between steps of a small model).
REMEMBERED, MARGIN = 4, 2.0


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
    """Coefficient alpha. With `auto` it is zero until R_g has been measured, and moves at steps of its own schedule.

    Measurements for other purposes do not move it, so that they change no bit of the weights.

    R_g moves between measurements, because the other losses' gradient does: alpha is kept so small that R_g is below
    the limit by a factor `MARGIN` in the largest of the last `REMEMBERED` measurements, and a measurement above the
    limit is repeated in the next step.
    """

    def __init__(self, options: BalanceLossOptions) -> None:
        self.options = options
        self.automatic = options.coefficient == "auto"
        self.value = 0.0 if options.coefficient == "auto" else options.coefficient
        self._largest: list[float] = []
        self._exceeded = False
        if not options.enabled:
            self.automatic, self.value = False, 0.0

    @property
    def wants_measurement(self) -> bool:
        """Whether the next step must be measured: alpha is undetermined, or R_g was above its limit."""
        return self.automatic and (self.value == 0.0 or self._exceeded)

    def moves(self, done: int, since_start: int) -> bool:
        """Whether the step after `done` steps, `since_start` of them in this run, is measured to update alpha."""
        return self.wants_measurement or (self.automatic and due(self.options.every, done, since_start))

    def update(self, unit_ratios: Sequence[float]) -> None:
        """Update an automatic alpha from R_g / alpha of every layer.

        The first measurement sets the mean of R_g to its target; each later one moves half way in log scale, by at most
        a factor of two. Layers without a gradient (zero, or not finite) are ignored.
        """
        usable = [ratio for ratio in unit_ratios if math.isfinite(ratio) and ratio > 0]
        if not self.automatic or not usable:
            return
        self._exceeded = self.value * max(usable) > self.options.limit_ratio
        self._largest = [*self._largest, max(usable)][-REMEMBERED:]
        aim = self.options.target_ratio * len(usable) / math.fsum(usable)
        if self.value > 0:
            step = min(max(math.sqrt(aim / self.value), 1 / LARGEST_MOVE), LARGEST_MOVE)
            aim = self.value * step
        self.value = min(aim, self.options.limit_ratio / MARGIN / max(self._largest))

    def state(self) -> dict[str, Any]:
        """State saved in checkpoints of the run."""
        return {"coefficient": self.value, "largest": self._largest, "exceeded": self._exceeded}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`, or a coefficient alone; one set by the options is kept."""
        if self.automatic:
            self.value = float(state["coefficient"])
            self._largest, self._exceeded = list(state.get("largest", ())), bool(state.get("exceeded", False))
