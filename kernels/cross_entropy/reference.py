"""Cross entropy and z-loss, the reference implementation."""

import torch

from longcat.kernels.precision import accumulation_dtype


def cross_entropy(
    logits_TV: torch.Tensor, targets_T: torch.Tensor, ignore_index: int, z_coefficient: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `kernels.cross_entropy.cross_entropy_with_z`."""
    wide_TV = logits_TV.to(accumulation_dtype(logits_TV.dtype))
    counted_T = targets_T != ignore_index
    log_p_TV = wide_TV.log_softmax(dim=-1)
    picked_T = log_p_TV.gather(1, targets_T.where(counted_T, 0).unsqueeze(1)).squeeze(1)
    z_T = z_coefficient * wide_TV.logsumexp(dim=-1).square()
    z = z_T.where(counted_T, 0.0).sum()
    return z - picked_T.where(counted_T, 0.0).sum(), z.detach(), counted_T.sum()
