"""Chunked projection and cross entropy on GPUs: matrix products of the vendor library, losses of our kernel.

The products are plain and large, so a custom kernel would not be faster; chunks reduce the memory for logits.
"""

import torch

from longcat.kernels.aot import Launch
from longcat.kernels.chips import Chip
from longcat.kernels.cross_entropy import triton as cross_entropy
from longcat.kernels.linear_cross_entropy import reference
from longcat.kernels.linear_cross_entropy.chunked import chunked_linear_cross_entropy

CHUNK_MIB = 1024  # 4,096 rows of 131,072 bfloat16 logits; the gradient of the weight is read and written once per chunk


def linear_cross_entropy(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    targets_T: torch.Tensor,
    z_coefficient: float,
    ignore_index: int,
    chunk_mib: int = CHUNK_MIB,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.linear_cross_entropy.linear_cross_entropy`."""
    if hidden_TD.dtype not in cross_entropy.DTYPES:
        return reference.linear_cross_entropy(hidden_TD, weight_VD, targets_T, z_coefficient, ignore_index)
    return chunked_linear_cross_entropy(
        hidden_TD, weight_VD, targets_T.contiguous(), z_coefficient, ignore_index, cross_entropy.row_losses_, chunk_mib
    )


def launches(chip: Chip) -> list[Launch]:
    """The launch of the losses that overwrites the logits with the gradient."""
    return [launch for launch in cross_entropy.launches(chip) if launch.name == "forward and gradient"]
