"""Cross entropy, the plain meaning."""

import torch

from kernels.precision import accumulation_dtype


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `kernels.cross_entropy.cross_entropy`."""
    log_p_TV = logits_TV.to(accumulation_dtype(logits_TV.dtype)).log_softmax(dim=-1)
    counted_T = targets_T != ignore_index
    picked_T = log_p_TV.gather(1, targets_T.where(counted_T, 0).unsqueeze(1)).squeeze(1)
    return -picked_T.where(counted_T, 0.0).sum(), counted_T.sum()
