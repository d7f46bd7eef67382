"""Cross entropy of next-token predictions, as a sum and a count, so that any number of batches can be averaged exactly.

Names: T tokens, V vocabulary.
"""

import torch

from longcat.kernels.cross_entropy import cpu, reference
from longcat.kernels.opaque import opaque
from longcat.kernels.precision import accumulation_dtype
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

    Computed in at least float32 for any dtype of the logits. Returns (sum, number of targets counted, int64). A
    target outside the vocabulary is an error on a CPU and makes the sum NaN in a Triton kernel.
    """
    total, _, counted = cross_entropy_with_z(logits_TV, targets_T, 0.0, ignore_index)
    return total, counted


def cross_entropy_with_z(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, z_coefficient: float, ignore_index: int = IGNORE_INDEX
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`cross_entropy` and the z-loss, `z_coefficient * logsumexp(logits_TV[t])^2` (Chowdhery et al. 2022, section 5).

    Returns (total, z, number of targets counted): the total is the sum of both terms and has the gradient, z is only
    the second one, for reporting.
    """
    if torch.compiler.is_compiling():
        total, z, counted = _NODE(logits_TV, targets_T, z_coefficient, ignore_index)
        return total, z.detach(), counted
    return select("cross_entropy", VERSIONS, logits_TV.device)(logits_TV, targets_T, ignore_index, z_coefficient)


def results_of(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The shapes and dtypes of (total, z, number of targets counted), without values."""
    wide = accumulation_dtype(logits.dtype)
    total, z, counted = (logits.new_empty((), dtype=dtype) for dtype in (wide, wide, torch.int64))
    return total, z, counted


_NODE = opaque(
    "cross_entropy",
    "(Tensor logits, Tensor targets, float z_coefficient, int ignore_index) -> (Tensor, Tensor, Tensor)",
    cross_entropy_with_z,
    lambda logits, targets, z_coefficient, ignore_index: results_of(logits),
    differentiable=(0,),
)
