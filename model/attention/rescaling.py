"""Pairs of matrices in an attention module whose scales may be exchanged: the output stays the same.

    q.k = (r q).(k / r)          queries against keys
    W_O (a v) = (W_O / r) a (r v)    output projection against values, a: attention weights

One matrix is multiplied by r, the other divided by it. No factor passes a norm, which would undo it.

Names: G groups with a factor each, X rows or columns of a group.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Pair = Literal["qk", "vo"]


class Part(NamedTuple):
    """Rows (`dim` 0) or columns (`dim` 1) of the parameter `name` of the module; places_GX: int64, by group."""

    name: str
    dim: int
    places_GX: torch.Tensor


class Exchange(NamedTuple):
    """Two parts with the same number of groups; group i of one can be rescaled against group i of the other."""

    pair: Pair
    first: Part
    second: Part

    def together(self) -> Exchange:
        """The same parts with one factor for all groups."""
        first, second = (part._replace(places_GX=part.places_GX.reshape(1, -1)) for part in (self.first, self.second))
        return self._replace(first=first, second=second)


def groups(count: int, stride: int, start: int, size: int) -> torch.Tensor:
    """Places [count, size]: `size` of every `stride`, from `start`."""
    return torch.arange(count).unsqueeze(1) * stride + torch.arange(start, start + size)
