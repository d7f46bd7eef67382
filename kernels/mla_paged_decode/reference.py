"""Attention over latents in pages, the plain meaning: one sequence after another, its pages gathered.

On a processor this is also the fast way: the products of one sequence are large, and its bits are its own.
"""

import torch

from longcat.kernels.mla_attention.reference import causal_mask
from longcat.kernels.precision import accumulation_dtype


def mla_paged_decode(
    q_BTHE: torch.Tensor,
    pages_PLE: torch.Tensor,
    page_table_BM: torch.Tensor,
    lengths_B: torch.Tensor,
    latent_width: int,
    scale: float,
) -> torch.Tensor:
    """See `kernels.mla_paged_decode.mla_paged_decode`."""
    _, tokens, heads, _ = q_BTHE.shape
    o_BTHC = q_BTHE.new_zeros(*q_BTHE.shape[:-1], latent_width)
    for row, length in enumerate(lengths_B.tolist()):
        held = -(-length // pages_PLE.shape[1])
        cached_NE = pages_PLE[page_table_BM[row, :held].long()].flatten(0, 1)[:length]
        seeing = min(tokens, length)
        # A copy, since matrix products round by where their operands lie in memory.
        q_XE = q_BTHE[row, tokens - seeing :].flatten(0, 1).clone()
        scores_THN = (q_XE @ cached_NE.T).to(accumulation_dtype(q_BTHE.dtype)).mul_(scale)
        scores_THN = scores_THN.view(seeing, heads, length)
        visible_TN = causal_mask(seeing, length, q_BTHE.device)
        probabilities_THN = scores_THN.masked_fill_(~visible_TN.unsqueeze(1), float("-inf")).softmax(dim=-1)
        mixed_XC = probabilities_THN.to(cached_NE.dtype).flatten(0, 1) @ cached_NE[:, :latent_width]
        o_BTHC[row, tokens - seeing :] = mixed_XC.view(seeing, heads, latent_width)
    return o_BTHC
