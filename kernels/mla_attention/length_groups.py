"""Short documents in groups of similar length, so that a group is one batch of rows instead of a call a document.

A document of up to `SHORT` tokens becomes a row of a multiple of `STEP` tokens, or of twice that in the upper half. The
tokens added behind its end are copies of its last one, which no earlier query sees, and their outputs are dropped. The
length of a row depends on nothing but the document. The other documents stay in one row.

Names: T tokens of all rows of the batch, X tokens of all groups, N documents of a group, L tokens of each.
"""

from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Above this, documents one by one are as fast.
SHORT, STEP = 256, 16


class LengthGroups:
    """Documents of these lengths, in the order of the tokens, by the length of their row."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = lengths
        rows: dict[int, list[int]] = {}
        for number, length in enumerate(lengths):
            rows.setdefault(_row(length), []).append(number)
        self.rows = dict(sorted(rows.items()))

    @property
    def has_short(self) -> bool:
        return any(self.rows)

    @cached_property
    def bounds(self) -> list[torch.Tensor | None]:
        """The cumulative lengths of the documents of every part of `divide`; None where every row is one."""
        return [None if row else _cumulative(self._of(numbers)) for row, numbers in self.rows.items()]

    def divide(self, x_THW: torch.Tensor) -> list[torch.Tensor]:
        """[N, L, H, W] of every group, and [1, tokens, H, W] of the other documents."""
        x_XHW: torch.Tensor = _Divide.apply(x_THW, self._places_X, self._places_T)
        shapes = [(len(numbers), row) if row else (1, sum(self._of(numbers))) for row, numbers in self.rows.items()]
        parts = x_XHW.split([rows * tokens for rows, tokens in shapes])
        return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(self, parts: list[torch.Tensor]) -> torch.Tensor:
        """[T, ...] of the parts [X, ...], the inverse of `divide`."""
        x_THW: torch.Tensor = _Join.apply(torch.cat(parts), self._places_T)
        return x_THW

    @cached_property
    def _places_X(self) -> torch.Tensor:  # noqa: N802
        """The token of every place in the groups."""
        starts = list(accumulate(self.lengths, initial=0))
        places = []
        for row, numbers in self.rows.items():
            for number in numbers:
                place_L = torch.arange(row or self.lengths[number])
                places.append(place_L.clamp_max_(self.lengths[number] - 1).add_(starts[number]))
        return torch.cat(places)

    @cached_property
    def _places_T(self) -> torch.Tensor:  # noqa: N802
        """The place in the groups of every token: of its copies the first."""
        first_X = torch.cat((torch.ones(1, dtype=torch.bool), self._places_X.diff() != 0))
        place_T = first_X.nonzero().squeeze(1)
        return place_T[self._places_X[place_T].argsort()]

    def _of(self, numbers: list[int]) -> list[int]:
        return [self.lengths[number] for number in numbers]


def _cumulative(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)])


def _row(length: int) -> int:
    """Tokens of the row of a document, 0 if it is not short."""
    if length > SHORT:
        return 0
    step = STEP if length <= SHORT // 2 else 2 * STEP
    return -(-length // step) * step


class _Divide(torch.autograd.Function):
    """Rows by place. The copies behind the end of a document have no gradient, so only the first of each is read."""

    @staticmethod
    def forward(ctx: Any, x_T: torch.Tensor, places_X: torch.Tensor, places_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places_T)
        return x_T.index_select(0, places_X)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_X: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grad_X.index_select(0, *ctx.saved_tensors), None, None


class _Join(torch.autograd.Function):
    """The inverse."""

    @staticmethod
    def forward(ctx: Any, x_X: torch.Tensor, places_T: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(places_T)
        ctx.shape = x_X.shape
        return x_X.index_select(0, places_T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (places_T,) = ctx.saved_tensors
        return grad_T.new_zeros(ctx.shape).index_copy_(0, places_T, grad_T), None
