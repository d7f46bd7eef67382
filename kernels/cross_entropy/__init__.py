"""Cross entropy of next-token predictions, as a sum and a count so that any number of batches can be averaged right.

Names: T tokens, V vocabulary.
"""

import torch

from kernels.cross_entropy import cpu, reference
from kernels.select import select

VERSIONS = {"reference": reference.cross_entropy, "cpu": cpu.cross_entropy}

IGNORE_INDEX = -100


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int = IGNORE_INDEX
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of `-log softmax(logits_TV)[t, targets_T[t]]` in nats over the targets that are not `ignore_index`.

    Computed in float32 or better whatever the dtype of the logits. Returns (sum, number of targets counted, int64).
    """
    return select("cross_entropy", VERSIONS, logits_TV.device)(logits_TV, targets_T, ignore_index)
