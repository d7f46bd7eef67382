"""Approximate orthogonalisation of matrices by a Newton-Schulz iteration (Jordan et al. 2024, "Muon").

With the singular value decomposition X = U S V^T, one step is U p(S) V^T for an odd polynomial p of degree 5, computed
from products alone:

    X <- a X + (b A + c A A) X,  A = X X^T

The coefficients have the steepest slope at zero with which the iteration stays near one: after five steps singular
values of 0.002 to 1 times the Frobenius norm lie between 0.68 and 1.21, and much smaller ones have grown 485 times.

Names: E matrices, M rows, N columns.
"""

from __future__ import annotations

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# A smaller norm, as of an expert without tokens, gives a smaller result instead of a division by almost zero.
SMALLEST_NORM = 1e-12
# Values that are orthogonalised at once, unless a single matrix has more.
BLOCK_VALUES = 1 << 22


def orthogonalize(x_EMN: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """The orthogonal factors U V^T of all matrices, approximately; [..., M, N] in the dtype of `x_EMN`.

    `dtype` is that of the products; norms are taken in the dtype of `x_EMN`. Zero matrices stay zero.
    """
    shape = x_EMN.shape
    y_EMN = x_EMN[None].flatten(0, -3)
    count = max(1, BLOCK_VALUES // max(1, shape[-2] * shape[-1]))
    parts = [_iterate(part, steps, dtype) for part in y_EMN.split(count)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).to(x_EMN.dtype).view(shape)


def _iterate(x_EMN: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    norm_E11 = torch.linalg.matrix_norm(x_EMN, keepdim=True).clamp_min(SMALLEST_NORM)
    y_EMN = (x_EMN / norm_E11).to(dtype)
    a, b, c = COEFFICIENTS
    tall = y_EMN.shape[-2] > y_EMN.shape[-1]  # the smaller of the two Gram matrices is cheaper
    for _ in range(steps):
        gram_ERR = y_EMN.mT @ y_EMN if tall else y_EMN @ y_EMN.mT
        odd_ERR = torch.baddbmm(gram_ERR, gram_ERR, gram_ERR, beta=b, alpha=c)
        first, second = (y_EMN, odd_ERR) if tall else (odd_ERR, y_EMN)
        y_EMN = torch.baddbmm(y_EMN, first, second, beta=a)
    return y_EMN
