"""Cross entropy of next-token predictions, as a sum and a count so that any number of batches can be averaged right.

Names: T tokens, V vocabulary.
"""

import torch

from longcat.kernels.cross_entropy import cpu, reference
from longcat.kernels.select import deferred, select

VERSIONS = {
    "reference": reference.cross_entropy,
    "cpu": cpu.cross_entropy,
    "triton": deferred("longcat.kernels.cross_entropy.triton", "cross_entropy"),
}

IGNORE_INDEX = -100


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int = IGNORE_INDEX
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `-log softmax(logits_TV)[t, targets_T[t]]` in nats over the targets that are not `ignore_index`.

    Computed in float32 or better whatever the dtype of the logits. Returns (sum, number of targets counted, int64). A
    target outside the vocabulary is an error on a processor and makes the sum NaN in a Triton kernel.
    """
    total, _, counted = cross_entropy_with_z(logits_TV, targets_T, 0.0, ignore_index)
    return total, counted


def cross_entropy_with_z(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, z_coefficient: float, ignore_index: int = IGNORE_INDEX
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`cross_entropy` and the z-loss, `z_coefficient * logsumexp(logits_TV[t])^2` (Chowdhery et al. 2022, section 5).

    Returns (total, z, number of targets counted): the total is the sum of both terms and has the gradient, z is the
    second one alone, to be reported.
    """
    return select("cross_entropy", VERSIONS, logits_TV.device)(logits_TV, targets_T, ignore_index, z_coefficient)
