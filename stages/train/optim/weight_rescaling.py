"""Weight rescaling (WISCA, arXiv 2508.16676): equal output, weights of equal size on both sides of a product.

    W_q' = W_q sqrt(|W_k| / |W_q|)      W_k' = W_k sqrt(|W_q| / |W_k|)      |W|: sum of absolute values
    W_v' = W_v sqrt(|W_o| / |W_v|)      W_o' = W_o sqrt(|W_v| / |W_o|)

The loss of a product is flattest where both factors have the same size. For latent attention the matrices are those
behind the norms of the latents (`model.attention.rescaling`). The paper does not say what becomes of the moments: a
weight r w has the gradient g / r, so they are divided by r and by its square, or kept. Weight averages are rescaled
like the weights, otherwise they would mix weights of different scales.

Names: G groups with a factor each, X rows or columns of a group, I all rows or columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Self

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard

from longcat.model.attention.base import SequenceMixer
from longcat.model.attention.rescaling import Exchange, Part
from longcat.model.growth.layers import DEGREES
from longcat.stages.formats.checkpoint import Tensors
from longcat.stages.train.config import WeightRescalingOptions
from longcat.stages.train.optim.after_step import StepDone
from longcat.stages.train.optim.average import WeightAverage
from longcat.stages.train.parallel.build import Distributed
from longcat.stages.train.parallel.state import local_part


class WeightRescaling:
    """Rescales the attention modules of this process, including that of multi-token prediction.

    All processes make the same calls: sums over sharded parameters are collective.
    """

    group = "weight_rescaling"

    def __init__(
        self,
        options: WeightRescalingOptions,
        held: Distributed,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        self._options, self._held, self._optimizer = options, held, optimizer
        self._averages: Mapping[str, torch.Tensor] = {} if average is None else average.tensors()

    @classmethod
    def of(
        cls,
        options: WeightRescalingOptions,
        held: Distributed,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> Self | None:
        """The hook of a run, or None."""
        return cls(options, held, optimizer, average) if options.enabled else None

    def at_start(self) -> None:
        """Rescale the values of a new model, if that is asked for."""
        if self._options.at_start:
            self.rescale()

    def after_step(self, done: StepDone) -> None:
        """Rescale after every `every` steps, see `stages.train.optim.after_step`."""
        if self._options.every and done.step % self._options.every == 0:
            self.rescale()

    def tensors(self) -> Tensors:
        return {}

    @torch.no_grad()
    def rescale(self) -> None:
        """Rescale all pairs, with their moments and averages."""
        for prefix, mixer in self._mixers():
            for exchange in mixer.exchanges():
                if self._options.pairs in ("both", exchange.pair):
                    one_factor = self._options.groups == "tensor"
                    self._exchange(prefix, mixer, exchange.together() if one_factor else exchange)

    def _mixers(self) -> Iterator[tuple[str, SequenceMixer]]:
        named = chain.from_iterable(model.named_modules() for model in self._held.models)
        return ((name, module) for name, module in named if isinstance(module, SequenceMixer))

    def _exchange(self, prefix: str, mixer: SequenceMixer, exchange: Exchange) -> None:
        first, second = exchange.first, exchange.second
        sizes = [_sizes(mixer.get_parameter(part.name), part) for part in (first, second)]
        factors_G = (sizes[1] / sizes[0]).sqrt()
        # A matrix of zeros, or values that are no longer finite: nothing to balance.
        factors_G = torch.where(factors_G.isfinite() & (factors_G > 0), factors_G, 1.0)
        for part, by_group in ((first, factors_G), (second, 1 / factors_G)):
            self._multiply(f"{prefix}.{part.name}", mixer.get_parameter(part.name), part, by_group)

    def _multiply(self, name: str, parameter: torch.nn.Parameter, part: Part, factors_G: torch.Tensor) -> None:
        places_GX = part.places_GX.to(factors_G.device)
        factors_I = factors_G.new_ones(parameter.shape[part.dim])
        factors_I[places_GX] = factors_G.unsqueeze(1)
        _scale(parameter, part.dim, factors_I)
        if name in self._averages:
            _scale(self._averages[name], part.dim, factors_I)
        if self._options.moments == "keep":
            return
        for key, moment in self._optimizer.state.get(parameter, {}).items():
            if key in DEGREES:
                _scale(moment, part.dim, factors_I ** -DEGREES[key])


def _sizes(parameter: torch.nn.Parameter, part: Part) -> torch.Tensor:
    """Sums of absolute values, float64 [G]."""
    local, bounds = local_part(parameter.detach())
    sums_I = torch.zeros(parameter.shape[part.dim], dtype=torch.float64, device=local.device)
    along = bounds[part.dim]
    sums_I[along.start : along.start + len(along)] = local.abs().sum(dim=1 - part.dim, dtype=torch.float64)
    if isinstance(parameter, DTensor):
        for dimension, placement in enumerate(parameter.placements):
            if isinstance(placement, Shard):
                dist.all_reduce(sums_I, group=parameter.device_mesh.get_group(dimension))
    return sums_I[part.places_GX.to(sums_I.device)].sum(dim=1)


def _scale(tensor: torch.Tensor, dim: int, factors_I: torch.Tensor) -> None:
    """Multiply the rows (`dim` 0) or columns of a matrix, or of this process's part of it, by `factors_I`."""
    local, bounds = local_part(tensor.detach())
    along = bounds[dim]
    factors = factors_I[along.start : along.start + len(along)].to(local.dtype)
    local.mul_(factors.unsqueeze(1 - dim))
