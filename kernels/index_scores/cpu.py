"""Scores on a CPU in tiles of keys whose products with all heads fit a cache."""

import torch

from longcat.kernels.precision import accumulation_dtype

TILE_VALUES = 1 << 18  # products of a tile, 1 MiB in float32


def index_scores(q_TJI: torch.Tensor, k_SI: torch.Tensor, w_TJ: torch.Tensor) -> torch.Tensor:
    """See `kernels.index_scores.index_scores`."""
    tokens, heads, width = q_TJI.shape
    dtype, keys = accumulation_dtype(q_TJI.dtype), k_SI.shape[0]
    q_XI, w_T1J = q_TJI.to(dtype).reshape(-1, width), w_TJ.to(dtype).unsqueeze(1)
    size = min(keys, max(64, TILE_VALUES // (tokens * heads)))
    scores_TS = torch.empty(tokens, keys, dtype=dtype)
    for first in range(0, keys, size):
        k_NI = k_SI[first : first + size].to(dtype)
        products_TJN = torch.mm(q_XI, k_NI.t()).relu_().view(tokens, heads, -1)
        scores_TS[:, first : first + size] = torch.bmm(w_T1J, products_TJN).squeeze(1)
    return scores_TS
