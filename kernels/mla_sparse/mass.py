"""Attention of all heads together over chosen positions, which an indexer learns to predict; plain PyTorch.

Names: N queries, H heads, K chosen positions, E width of a position.
"""

import torch

from longcat.kernels.mla_sparse.cpu import gather, weights


def attention_mass(q_NHE: torch.Tensor, e_SE: torch.Tensor, chosen_NK: torch.Tensor, scale: float) -> torch.Tensor:
    """Mean over heads of the probabilities of the chosen positions [N, K], at least float32, without a gradient.

    They sum to one in every row with a chosen position; those of absent ones are zero.
    """
    with torch.no_grad():
        return weights(q_NHE, gather(e_SE, chosen_NK), chosen_NK, scale).mean(1)
