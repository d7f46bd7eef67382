"""Attention over paged latents, the reference implementation: sequences one by one, with gathered pages.

The bits of a sequence do not depend on other sequences.
"""

import torch

from longcat.kernels.mla_attention.reference import causal_mask
from longcat.kernels.mla_paged_decode.sequences import SequencePages
from longcat.kernels.precision import accumulation_dtype


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    sequences: SequencePages,
    latent_width: int,
    scale: float,
    splits: int | None,
) -> torch.Tensor:
    """See `kernels.mla_paged_decode.mla_paged_decode`."""
    _, tokens, heads, _ = q_BTHE.shape
    o_BTHC = q_BTHE.new_zeros(*q_BTHE.shape[:-1], latent_width)
    for row, (table, length) in enumerate(zip(sequences.used(), sequences.lengths, strict=True)):
        cached_NE = pages_PLE[torch.tensor(table, dtype=torch.int64, device=pages_PLE.device)].flatten(0, 1)[:length]
        seeing = min(tokens, length)
        # A copy, because the rounding of matrix products depends on the memory layout of the operands.
        q_XE = q_BTHE[row, tokens - seeing :].flatten(0, 1).clone()
        scores_THN = (q_XE @ cached_NE.T).to(accumulation_dtype(q_BTHE.dtype)) * scale
        scores_THN = scores_THN.view(seeing, heads, length)
        visible_TN = causal_mask(seeing, length, q_BTHE.device)
        probabilities_THN = scores_THN.masked_fill(~visible_TN.unsqueeze(1), float("-inf")).softmax(dim=-1)
        mixed_XC = probabilities_THN.to(cached_NE.dtype).flatten(0, 1) @ cached_NE[:, :latent_width]
        o_BTHC[row, tokens - seeing :] = mixed_XC.view(seeing, heads, latent_width)
    return o_BTHC
