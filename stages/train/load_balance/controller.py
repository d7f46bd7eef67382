"""Router biases that balance expert load and keep the mean number of FFN experts per token at its target.

LongCat-Flash report, eq. 2, once per optimizer step, only for FFN experts:

    delta b_i = mu * ( K_e/K * 1/N  -  T_i / (K * T_all) )      for i < N,   0 for the zero-computation experts

T_all tokens of the step over all microbatches, T_i those routed to expert i, K slots per token, K_e the target number
of slots for FFN experts. At the target every expert of both kinds gets 1/(N+Z) of the slots when K_e = K*N/(N+Z), which
is the published ratio (8 of 12 slots with 512 and 256 experts) and the default here.

On the gain: a softmax router's scores are about 1/(N+Z), and at first their spread over tokens is a third of that. An
expert's share of the slots then answers a change of its bias with a slope of about 0.8*(N+Z)/K, so the default
mu = K/(N+Z) closes a gap within a few steps and mu above 2*K/(N+Z) may oscillate. A trained router is sharper and
answers less: gains ten times smaller need hundreds of steps. The published value is not disclosed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from longcat.model.config import ModelConfig
from longcat.stages.train.config import BalanceOptions, TrainingOptions

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BiasController:
    """Controller with its constants: `experts` N, `zero_experts` Z, `topk` K, `target` K_e, and gains."""

    experts: int
    zero_experts: int
    topk: int
    target: float
    mu: float
    final_mu_ratio: float

    @classmethod
    def of(cls, options: BalanceOptions, *, experts: int, zero_experts: int, topk: int) -> BiasController:
        """Resolve options that are null.

        Raises:
            ValueError: the target cannot be reached with this many slots and experts.
        """
        everyone = experts + zero_experts
        target = options.target_active_experts
        if target is None:
            target = topk * experts / everyone
        least, most = max(0, topk - zero_experts), min(topk, experts)
        if not least <= target <= most:
            raise ValueError(
                f"balance.target_active_experts = {target:g} is out of reach: a token selects {topk} of {experts} FFN "
                f"and {zero_experts} zero-computation experts, so the mean is between {least} and {most}"
            )
        mu = topk / everyone if options.mu is None else options.mu
        return cls(experts, zero_experts, topk, target, mu, options.final_mu_ratio)

    def gain(self, progress: float) -> float:
        """mu at a fraction `progress` (0 to 1) of the schedule: linear decay to `final_mu_ratio * mu`."""
        return self.mu * (1 - (1 - self.final_mu_ratio) * progress)

    def update(self, biases: Sequence[torch.Tensor], counts_LE: torch.Tensor, tokens: int, gain: float) -> None:
        """Add delta b to the biases [E] of every layer, in place; `counts_LE` are the slots per expert."""
        shares_LN = counts_LE[:, : self.experts].double() / (self.topk * tokens)
        delta_LN = gain * (self.target / self.topk / self.experts - shares_LN)
        for bias_E, delta_N in zip(biases, delta_LN, strict=True):
            bias_E[: self.experts].add_(delta_N.to(bias_E))


def controller_of(options: TrainingOptions, architecture: ModelConfig) -> BiasController:
    """Controller of a run; raises as `BiasController.of`."""
    return BiasController.of(
        options.balance,
        experts=architecture.n_routed_experts,
        zero_experts=architecture.zero_expert_num,
        topk=architecture.moe_topk,
    )
