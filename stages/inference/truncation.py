"""Exact truncation of distributions on the device without sorting the vocabulary, and draws from what is kept.

Probabilities are integers in proportion to exp(x - max): sums of integers are exact, so that no result depends on the
order of summation, the number of threads or the other rows of a batch. "Leading" tokens are the most likely ones, of
equal ones those with the lower ids.

Names: R rows, V vocabulary, N leading tokens, B blocks, W tokens per block.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_WEIGHT_BITS = 44
BLOCK_TOKENS = 256
_RADIX = 1 << 16


def weight_bits(vocab_size: int) -> int:
    """Bits of the largest weight, so that the weights of a whole vocabulary add up to less than 2**62."""
    return min(MAX_WEIGHT_BITS, 62 - vocab_size.bit_length())


def weights(scores_RV: Tensor, highest_R: Tensor, temperature_R: Tensor, bits: int) -> Tensor:
    """Integers [R, V] in proportion to the softmax of scores / temperature; 2**bits stands for score `highest`.

    Tokens less than 2**-bits times as likely as the most likely one get zero.
    """
    shares_RV = scores_RV.sub(highest_R.unsqueeze(-1)).div_(temperature_R.unsqueeze(-1)).exp_()
    return shares_RV.mul_(2.0**bits).to(torch.int64)


def keep(weights_RN: Tensor, mask_RN: Tensor) -> Tensor:
    """Weights where the mask is true, zero elsewhere; a product with booleans takes ten times as long on a CPU."""
    return weights_RN & mask_RN.long().neg_()


def draw(weights_RN: Tensor, uniform_R: Tensor) -> Tensor:
    """Inverse transform sampling: index [R] of the drawn entry; each row has a weight above zero."""
    cumulative_RN = weights_RN.cumsum(-1)
    total_R = cumulative_RN[:, -1]
    # Rounded up to the total by float64 at most in the last of 2**53 values.
    target_R = (uniform_R * total_R.double()).long().minimum(total_R - 1)
    return torch.searchsorted(cumulative_RN, target_R.unsqueeze(-1), right=True).squeeze(-1)


def nucleus_mass(total_R: Tensor, top_p_R: Tensor) -> Tensor:
    """Mass [R] that the kept tokens must reach: nucleus sampling (arXiv 1904.09751); at least one."""
    return (total_R.double() * top_p_R).ceil().long().maximum(total_R.new_ones(())).minimum(total_R)


def leading(scores_RV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Scores and ids [R, N] of the `count` leading tokens, most likely first; `count` is at most V.

    A block holds one of the first n tokens only if its maximum is among the n highest block maxima.
    """
    rows, vocabulary = scores_RV.shape
    blocks = vocabulary // BLOCK_TOKENS
    if blocks <= count:
        return _leading_of(scores_RV, torch.arange(vocabulary, device=scores_RV.device).expand(rows, -1), count)
    whole = blocks * BLOCK_TOKENS
    scores_RBW = scores_RV[:, :whole].reshape(rows, blocks, BLOCK_TOKENS)
    block_ids_B = torch.arange(blocks, device=scores_RV.device)
    _, chosen_RN = _leading_of(scores_RBW.amax(-1), block_ids_B.expand(rows, -1), count)
    ids_RNW = chosen_RN.unsqueeze(-1) * BLOCK_TOKENS + torch.arange(BLOCK_TOKENS, device=scores_RV.device)
    # The tokens after the last whole block are candidates, too.
    rest_RW = torch.arange(whole, vocabulary, device=scores_RV.device).expand(rows, -1)
    ids_RN = torch.cat([ids_RNW.flatten(1), rest_RW], dim=-1)
    return _leading_of(scores_RV.gather(-1, ids_RN), ids_RN, count)


def _leading_of(scores_RN: Tensor, ids_RN: Tensor, count: int) -> tuple[Tensor, Tensor]:
    # Score and id in one number: no two are equal, so that ties do not depend on the algorithm of topk.
    keys_RN = (_ordered(scores_RN).long() << 32) - ids_RN
    index_RN = keys_RN.topk(count, dim=-1).indices
    return scores_RN.gather(-1, index_RN), ids_RN.gather(-1, index_RN)


def leading_mask(scores_RV: Tensor, mass_RV: Tensor, needed_R: Tensor) -> Tensor:
    """Mask [R, V] of the fewest leading tokens whose mass reaches `needed` (positive, at most the row's total).

    Radix selection: a histogram of the upper 16 bits of the scores finds the bucket of the last kept token; only the
    tokens of that bucket are sorted.
    """
    keys_RV = _ordered(scores_RV)
    bucket_RV = (32767 - (keys_RV >> 16)).long()
    histogram = mass_RV.new_zeros(len(mass_RV), _RADIX).scatter_add_(-1, bucket_RV, mass_RV)
    cumulative = histogram.cumsum(-1)
    last_R1 = torch.searchsorted(cumulative, needed_R.unsqueeze(-1))
    before_R1 = cumulative.gather(-1, last_R1) - histogram.gather(-1, last_R1)
    kept_RV = bucket_RV < last_R1
    rows_N, ids_N = (bucket_RV == last_R1).nonzero(as_tuple=True)
    chosen_N = _leading_pairs(rows_N, keys_RV[rows_N, ids_N], mass_RV[rows_N, ids_N], needed_R - before_R1.squeeze(-1))
    kept_RV[rows_N[chosen_N], ids_N[chosen_N]] = True
    return kept_RV


def _leading_pairs(rows_N: Tensor, keys_N: Tensor, mass_N: Tensor, missing_R: Tensor) -> Tensor:
    """Indices of the fewest leading entries of every row whose mass reaches `missing`; rows and ids ascend."""
    order_N = ((rows_N << 33) - keys_N).argsort(stable=True)
    rows_N, mass_N = rows_N[order_N], mass_N[order_N]
    before_N = mass_N.cumsum(0) - mass_N
    # Each row's mass counts from its first entry; a sum over rows may wrap, but differences within a row are exact.
    first_R = torch.searchsorted(rows_N, torch.arange(len(missing_R), device=rows_N.device))
    return order_N[before_N - before_N[first_R][rows_N] < missing_R[rows_N]]


def _ordered(scores: Tensor) -> Tensor:
    """Integers of 32 bits in the order of float32 scores; adding zero makes a negative zero equal to zero."""
    bits = scores.add(0.0).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
