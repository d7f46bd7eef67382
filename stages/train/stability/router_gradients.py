"""Strength of the balance loss gradient at the routers relative to all other losses (report, section 3.1.3: R_g).

    R_g = || alpha grad_P L_LB ||_2 / || grad_P L_LM ||_2          P [E]: the mean scores of a batch

grad_P L_LB is f, the vector of `stages.train.load_balance.device_loss`. Changing P by a vector changes the scores of
every token by it, so grad_P L_LM = sum over tokens of dL_LM/dR(x_t). A routing weight is `scaling * R_i`, so that sum
is a scatter of the weights' gradients, which a hook on `LayerRouting.weights_TK` sees. With null experts the weights
are normalised scores, and the gradient includes the normalisation.

The balance loss of a layer acts on its logits and does not reach that layer's weights. Those of later layers reach them
through the hidden states and are included in the measurement. At balance their gradient vanishes, and at the target
ratio they change the norm by a relative 1e-5.

Names: T tokens, K slots per token, E experts of both kinds, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from longcat.model.config import ModelConfig
from longcat.model.moe.mixture import LayerRouting

Reduce = Callable[[torch.Tensor], torch.Tensor]


class RouterGradients:
    """Collects grad_P L_LM and f of every layer over the micro batches of one step, in float64."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self.scaling = config.routed_scaling_factor
        self.true_experts = config.n_routed_experts if config.zero_expert_type == "null" else None
        shape = (config.num_layers, config.num_experts)
        self.gradients_LE = torch.zeros(shape, dtype=torch.float64, device=device)
        self.frequencies_LE = torch.zeros_like(self.gradients_LE)

    def watch(self, layer: int, routing: LayerRouting, frequencies_E: torch.Tensor, share: float) -> None:
        """Hook one layer of a micro batch, between its forward and backward pass.

        `share` is the weight of this call in the step: with several micro batches or devices, the shares of a layer
        sum to one, as the gradients of the losses do.
        """
        self.frequencies_LE[layer] += share * frequencies_E.double()
        logits_TE = routing.logits_TE.detach() if self.true_experts is not None else None
        routing.weights_TK.register_hook(partial(self._add, layer, routing.experts_TK, logits_TE))

    def _add(
        self, layer: int, experts_TK: torch.Tensor, logits_TE: torch.Tensor | None, gradient_TK: torch.Tensor
    ) -> None:
        flow_TK = gradient_TK.double()
        if logits_TE is not None:
            flow_TK = self._through_shares(flow_TK, experts_TK, logits_TE)
        # A token's experts are distinct, so this scatter writes every element at most once and is deterministic.
        spread_TE = flow_TK.new_zeros(flow_TK.shape[0], self.gradients_LE.shape[1]).scatter_(1, experts_TK, flow_TK)
        self.gradients_LE[layer] += self.scaling * spread_TE.sum(dim=0)

    def _through_shares(self, flow_TK: torch.Tensor, experts_TK: torch.Tensor, logits_TE: torch.Tensor) -> torch.Tensor:
        """Gradient of `R_i / sum of the selected FFN R` with respect to R."""
        true_TK = experts_TK < (self.true_experts or 0)
        scores_TK = logits_TE.double().softmax(dim=-1).gather(1, experts_TK) * true_TK
        total_T1 = scores_TK.sum(dim=1, keepdim=True)
        total_T1 = total_T1.where(total_T1 > 0, 1.0)
        mean_T1 = (flow_TK * scores_TK).sum(dim=1, keepdim=True) / total_T1
        return (flow_TK - mean_T1) / total_T1 * true_TK

    def unit_ratios(self, reduce_sum: Reduce | None = None) -> list[float]:
        """R_g / alpha by layer; 0 without a gradient. `reduce_sum` sums over all devices."""
        both_2LE = torch.stack((self.frequencies_LE, self.gradients_LE))
        both_2LE = both_2LE if reduce_sum is None else reduce_sum(both_2LE)
        pull_L, other_L = both_2LE.norm(dim=-1)
        ratios: list[float] = torch.where(other_L > 0, pull_L / other_L, 0.0).tolist()
        return ratios


def scaled(unit_ratios: Sequence[float], coefficient: float) -> list[float]:
    """R_g at a coefficient alpha."""
    return [coefficient * ratio for ratio in unit_ratios]
