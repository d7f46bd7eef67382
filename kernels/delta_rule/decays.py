"""Products over pairs of tokens of a chunk, decayed by what lies between them.

    A_ij = sum_c x_ic k_jc exp(G_ic - G_jc)    for j < i,    G the sums of the log decays up to a token

The factor is a product of two only with a reference G_r, exp(G_i - G_r) exp(G_r - G_j), and neither can overflow if r
lies between j and i. So the pairs are divided by halves: with blocks of S = 1, 2, 4, ... tokens, the rows of every
second block meet the columns of the block before it, and r is the last token of that one. Together these are all pairs,
and a token has one exponential for each S. A document that begins between two tokens makes their factor zero.

Names: X chunks of all heads, C tokens of a chunk, K key width, M pairs of blocks, S tokens of a block. The two kinds of
x, queries and erased keys, lie together, [X, C, 2, K], and so do their products, [X, C, 2, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Sums(NamedTuple):
    """total: G, float64 [X, C, K], since a difference of two float32 sums would not be exact enough.

    documents: number of documents that began in the chunk up to a token, int64 [X, C, 1]. dtype: of factors.
    """

    total: torch.Tensor
    documents: torch.Tensor | None
    dtype: torch.dtype

    @classmethod
    def of(cls, g_XCK: torch.Tensor, starts_XC: torch.Tensor | None) -> Sums:
        """Sums of log decays."""
        documents = None if starts_XC is None else starts_XC.cumsum(-1).unsqueeze(-1)
        return cls(g_XCK.cumsum(-2, dtype=torch.float64), documents, g_XCK.dtype)

    def since_start(self) -> torch.Tensor:
        """Decay of the state before the chunk at every token [X, C, K]."""
        factor = self.total.exp().to(self.dtype)
        return factor if self.documents is None else factor.masked_fill_(self.documents > 0, 0)

    def until_end(self) -> torch.Tensor:
        """Decay from every token to the last one [X, C, K]."""
        return self._at(lambda x: x[:, -1:]).over(self)

    def halves(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of rows and columns [X, M, S, K], for blocks of `size` tokens."""
        blocks = self._at(lambda x: x.unflatten(1, (-1, 2, size)))
        early, late = blocks._at(lambda x: x[:, :, 0]), blocks._at(lambda x: x[:, :, 1])
        reference = early._at(lambda x: x[:, :, -1:])
        return late.over(reference), reference.over(early)

    def over(self, earlier: Sums) -> torch.Tensor:
        """Decay from the tokens of `earlier` to these; zero if a document began between them."""
        factor = (self.total - earlier.total).to(self.dtype).exp_()
        if self.documents is None or earlier.documents is None:
            return factor
        return factor.masked_fill_(self.documents != earlier.documents, 0)

    def _at(self, place: Callable[[torch.Tensor], torch.Tensor]) -> Sums:
        """Sums at some tokens."""
        return Sums(place(self.total), None if self.documents is None else place(self.documents), self.dtype)


class Products:
    """Products of x [X, C, 2, K] and k [X, C, K] over the pairs j < i of every chunk, and their gradients."""

    def __init__(self, x_XC2K: torch.Tensor, k_XCK: torch.Tensor, sums: Sums) -> None:
        chunk = k_XCK.shape[1]
        self._sizes = [1 << power for power in range(chunk.bit_length() - 1)]
        self._factors = [sums.halves(size) for size in self._sizes]
        self._operands = []
        self.values_XC2C = k_XCK.new_zeros(*x_XC2K.shape[:3], chunk)
        for size, (late_XMSK, early_XMSK) in zip(self._sizes, self._factors, strict=True):
            rows = x_XC2K.unflatten(1, (-1, 2, size))[:, :, 1] * late_XMSK.unsqueeze(-2)
            columns = k_XCK.unflatten(1, (-1, 2, size))[:, :, 0] * early_XMSK
            shape = rows.shape[:4]
            rows, columns = rows.flatten(2, 3).flatten(0, 1), columns.flatten(0, 1)
            self._operands.append((rows, columns))
            products = torch.bmm(rows, columns.mT).view(*shape, size)
            _blocks(self.values_XC2C, size).copy_(products.permute(0, 2, 3, 4, 1))

    def gradients(self, grad_XC2C: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of x and k; those of pairs with j >= i are not read."""
        late, early = self._factors[0]
        chunks, chunk, width = grad_XC2C.shape[0], grad_XC2C.shape[-1], late.shape[-1]
        grad_x, grad_k = late.new_zeros(chunks, chunk, 2, width), early.new_zeros(chunks, chunk, width)
        for size, (late, early), (rows, columns) in zip(self._sizes, self._factors, self._operands, strict=True):
            products = _blocks(grad_XC2C, size).permute(0, 4, 1, 2, 3).reshape(-1, 2 * size, size)
            of_rows = torch.bmm(products, columns).view(*late.shape[:3], 2, width)
            of_columns = torch.bmm(products.mT, rows).view(early.shape)
            grad_x.unflatten(1, (-1, 2, size))[:, :, 1].addcmul_(of_rows, late.unsqueeze(-2))
            grad_k.unflatten(1, (-1, 2, size))[:, :, 0].addcmul_(of_columns, early)
        return grad_x, grad_k


def _blocks(values_XC2C: torch.Tensor, size: int) -> torch.Tensor:
    """View [X, S, 2, S, M] of the products of every second block of rows with the columns before it."""
    pairs = values_XC2C.unflatten(-1, (-1, 2, size)).unflatten(1, (-1, 2, size))
    return pairs[:, :, 1, :, :, :, 0].diagonal(dim1=1, dim2=4)
