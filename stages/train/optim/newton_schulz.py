"""Approximate orthogonalisation of matrices by a Newton-Schulz iteration (Jordan et al. 2024, "Muon").

With the singular value decomposition X = U S V^T, one step is U p(S) V^T for an odd polynomial p of degree 5, computed
from products alone:

    X <- a X + (b A + c A A) X,  A = X X^T

The coefficients have the steepest slope at zero with which the iteration stays near one: after five steps singular
values of 0.002 to 1 times the Frobenius norm lie between 0.68 and 1.21, and much smaller ones have grown 485 times.

Names: E matrices, M rows, N columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from longcat.model.matrices import TOGETHER

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# A smaller norm, as of an expert without tokens, gives a smaller result instead of a division by almost zero.
SMALLEST_NORM = 1e-12
BLOCK_VALUES = TOGETHER  # orthogonalised at once, unless a single matrix has more


def orthogonalize(x_EMN: torch.Tensor, steps: int, dtype: torch.dtype) -> torch.Tensor:
    """The orthogonal factors U V^T of all matrices, approximately; [..., M, N] in the dtype of `x_EMN`.

    `dtype` is that of the products; norms are taken in the dtype of `x_EMN`. Zero matrices stay zero.
    """
    shape = x_EMN.shape
    y_EMN = x_EMN[None].flatten(0, -3)
    count = max(1, BLOCK_VALUES // max(1, shape[-2] * shape[-1]))
    parts = [_iterate(part, steps, dtype) for part in y_EMN.split(count)]
    return _joined(parts).to(x_EMN.dtype).view(shape)


def orthogonalize_all(tensors: Sequence[torch.Tensor], steps: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """`orthogonalize` of every tensor [..., M, N]; matrices of the same shape are computed together.

    Models have many matrices whose products take less time than the calls.
    """
    results: dict[int, torch.Tensor] = {}
    for numbers in _alike(tensors):
        x_EMN = _joined([tensors[number][None].flatten(0, -3) for number in numbers])
        sizes = [tensors[number].shape[:-2].numel() for number in numbers]
        parts = orthogonalize(x_EMN, steps, dtype).split(sizes)
        results |= {n: part.view(tensors[n].shape) for n, part in zip(numbers, parts, strict=True)}
    return [results[number] for number in range(len(tensors))]


def _alike(tensors: Sequence[torch.Tensor]) -> Iterator[list[int]]:
    """Numbers of tensors of matrices of one shape, with at most `BLOCK_VALUES` values together, or a larger one."""
    found: dict[torch.Size, list[int]] = {}
    for number, tensor in enumerate(tensors):
        members = found.setdefault(tensor.shape[-2:], [])
        if members and sum(tensors[n].numel() for n in (*members, number)) > BLOCK_VALUES:
            yield members.copy()
            members.clear()
        members.append(number)
    yield from found.values()


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


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
