"""Share of attention mass that budgets cover: an average by layer, length of document and candidate budget.

It is measured every so many steps, over all windows of the step, from what the mixers report
(`SequenceMixer.coverage`). It is part of a run's saved state, since budgets are chosen by it.

Names: L layers, K buckets of lengths, R candidate budgets, B batch, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from longcat.model.attention.base import SequenceContext, SequenceMixer
from longcat.stages.train.sparse_balance.budgets import RATIOS

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BUCKETS = 32  # bucket k holds the lengths from 2^(k - 1) to 2^k - 1
DIGITS = 6  # so that the order of a sum over processes does not matter


class Coverage:
    """Averages [L, K, R] over measurements; NaN where no document of such a length was seen."""

    def __init__(self, layers: int, decay: float) -> None:
        self.values_LKR: Floats = np.full((layers, BUCKETS, len(RATIOS)), np.nan)
        self._decay = decay

    def add(self, sums_LKX: torch.Tensor) -> None:
        """Add a measurement: sums over tokens of the shares, and in the last column the number of tokens."""
        sums = sums_LKX.cpu().numpy()
        for layer, bucket in np.argwhere(sums[..., -1] > 0):
            found = sums[layer, bucket, :-1] / sums[layer, bucket, -1]
            before = self.values_LKR[layer, bucket]
            new = found if np.isnan(before[0]) else self._decay * before + (1 - self._decay) * found
            self.values_LKR[layer, bucket] = new.round(DIGITS)

    def of(self, layer: int, lengths: Ids) -> Floats:
        """Covered shares [R] of a window with documents of these lengths, by tokens; NaN if one is not known."""
        buckets = np.frexp(lengths.astype(np.float64))[1]
        shares: Floats = np.average(self.values_LKR[layer, buckets], axis=0, weights=lengths)
        return shares

    def state(self) -> list[Any]:
        """What is known, as JSON: layer, bucket, shares."""
        known = np.argwhere(~np.isnan(self.values_LKR[..., 0]))
        return [[int(layer), int(bucket), self.values_LKR[layer, bucket].tolist()] for layer, bucket in known]

    def restore(self, state: Sequence[Any]) -> None:
        """Set what `state` returned."""
        self.values_LKR.fill(np.nan)
        for layer, bucket, shares in state:
            self.values_LKR[layer, bucket] = shares


def mixers_of(layers: Mapping[int, nn.Module]) -> Iterator[tuple[int, SequenceMixer]]:
    """Mixers of layers, with the index of their layer."""
    for number, layer in layers.items():
        yield from ((number, module) for module in layer.modules() if isinstance(module, SequenceMixer))


@contextmanager
def measuring(
    layers: Mapping[int, nn.Module], budgets: Mapping[int, Sequence[int]], sums_LKX: torch.Tensor
) -> Iterator[None]:
    """Add up the shares during forward passes, as `Coverage.add` takes them; `budgets`: the candidates by layer.

    What is recomputed in backward is counted again, for all layers and tokens alike, so that averages stay the same.
    """

    def hook(number: int) -> Callable[..., None]:
        def look(mixer: nn.Module, arguments: tuple[Any, ...]) -> None:
            assert isinstance(mixer, SequenceMixer)  # noqa: S101  the hook is on those
            x_BTD, where = arguments[:2]
            with torch.no_grad():
                found_BTR = mixer.coverage(x_BTD.detach(), replace(where, budgets_B=None), budgets[number])
            if found_BTR is not None:
                _add(sums_LKX[number], found_BTR, _buckets(where, *x_BTD.shape[:2]))

        return look

    handles = [mixer.register_forward_pre_hook(hook(number), prepend=True) for number, mixer in mixers_of(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(sums_KX: torch.Tensor, found_BTR: torch.Tensor, buckets_N: torch.Tensor) -> None:
    shares_NR = found_BTR.flatten(0, 1).double().cpu()
    with_count_NX = torch.cat((shares_NR, torch.ones(len(shares_NR), 1, dtype=torch.float64)), dim=1)
    sums_KX.index_add_(0, buckets_N, with_count_NX)


def _buckets(where: SequenceContext, batch: int, tokens: int) -> torch.Tensor:
    """Bucket of the document of every token, [B * T]."""
    bounds = where.cu_seqlens
    lengths = torch.full((batch,), tokens) if bounds is None else torch.diff(bounds.cpu().long())
    return torch.repeat_interleave(torch.frexp(lengths.double())[1].long(), lengths)
