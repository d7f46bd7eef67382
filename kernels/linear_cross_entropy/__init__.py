"""Output projection and cross entropy in one operation that never stores all logits.

Rows are processed in chunks: the logits of a chunk, their losses and their gradients are computed, then the next chunk
uses the same memory (Hsu et al. 2024, Liger Kernel). Wijmans et al. 2024 (Cut Your Losses in Large-Vocabulary Language
Models) never write logits to memory, but compute them twice. Here nothing is computed twice: the gradient of a sum is
known up to one factor in the forward.

Names: T tokens, D width, V vocabulary, C rows per chunk.
"""

import torch

from longcat.kernels.cross_entropy import IGNORE_INDEX, results_of
from longcat.kernels.linear_cross_entropy import cpu, reference
from longcat.kernels.opaque import opaque
from longcat.kernels.select import KernelError, deferred, select

VERSIONS = {
    "reference": reference.linear_cross_entropy,
    "cpu": cpu.linear_cross_entropy,
    "triton": deferred("longcat.kernels.linear_cross_entropy.triton", "linear_cross_entropy"),
}


def linear_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    z_coefficient: float = 0.0,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`cross_entropy_with_z` of the logits `hidden_TD @ weight_VD.T`, which have the dtype of both.

    Returns (total, z, number of targets counted): sums in float32 or better; the total has the gradient. The
    gradient of `weight_VD` is summed in float32 or better and rounded once; on a CPU the
    part of every half-precision chunk is rounded too.

    Raises:
        KernelError: shapes or dtypes that do not match.
    """
    fits = hidden_TD.ndim == weight_VD.ndim == 2 and hidden_TD.shape[1] == weight_VD.shape[1]
    if not fits or targets_T.shape != hidden_TD.shape[:1] or hidden_TD.dtype != weight_VD.dtype:
        raise KernelError(
            f"linear_cross_entropy: hidden {tuple(hidden_TD.shape)} {hidden_TD.dtype}, weight "
            f"{tuple(weight_VD.shape)} {weight_VD.dtype} and targets {tuple(targets_T.shape)} do not match; "
            "they must be [T, D], [V, D] and [T], the first two of one dtype"
        )
    if torch.compiler.is_compiling():
        total, z, counted = _NODE(hidden_TD, weight_VD, targets_T, z_coefficient, ignore_index)
        return total, z.detach(), counted
    version = select("linear_cross_entropy", VERSIONS, hidden_TD.device)
    return version(hidden_TD, weight_VD, targets_T, z_coefficient, ignore_index)


_NODE = opaque(
    "linear_cross_entropy",
    "(Tensor hidden, Tensor weight, Tensor targets, float z_coefficient, int ignore_index) -> (Tensor, Tensor, Tensor)",
    linear_cross_entropy,
    lambda hidden, weight, targets, z_coefficient, ignore_index: results_of(hidden),
    differentiable=(0, 1),
)
