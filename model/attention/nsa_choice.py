"""Which selection blocks a query attends to, by the probabilities of compressed blocks (NSA, arXiv:2502.11089, eq. 9).

Names: G groups of heads, F queries that choose, T queries, N compressed blocks, J selection blocks, K chosen blocks,
L positions of a selection block, X positions.
"""

from __future__ import annotations

from functools import lru_cache

import torch

ABSENT = -1


@lru_cache(maxsize=16)
def overlaps(compressed: int, blocks: int, size: int, stride: int, block: int) -> torch.Tensor:
    """Positions that compressed and selection blocks have in common, in strides; float64 [N, J]."""
    first_N1 = torch.arange(compressed).unsqueeze(1) * stride
    first_J = torch.arange(blocks) * block
    common_NJ = torch.minimum(first_N1 + size, first_J + block) - torch.maximum(first_N1, first_J)
    return common_NJ.clamp(min=0).double() / stride


def choose(
    scores_GFJ: torch.Tensor, at_F: torch.Tensor, block: int, top_n: int, initial: int, local: int
) -> torch.Tensor:
    """The blocks [G, F, K] with the greatest scores among those up to the query's own, in order, absent ones last.

    The `initial` first and the `local` last ones come before all others; ties go to the lowest block.
    """
    own_F1, index_J = (at_F // block).unsqueeze(1), torch.arange(scores_GFJ.shape[-1], device=scores_GFJ.device)
    forced_FJ = (index_J < initial) | (index_J > own_F1 - local)
    ranked_GFJ = scores_GFJ.masked_fill(forced_FJ, float("inf")).masked_fill(index_J > own_F1, float("-inf"))
    order_GFJ = ranked_GFJ.argsort(dim=-1, descending=True, stable=True)[..., :top_n]
    absent_GFK = ranked_GFJ.gather(-1, order_GFJ) == float("-inf")
    return absent_last(order_GFJ.masked_fill(absent_GFK, ABSENT))


def absent_last(found: torch.Tensor) -> torch.Tensor:
    """In rising order, with the absent ones behind."""
    last = torch.iinfo(found.dtype).max
    rising = found.masked_fill(found == ABSENT, last).sort(-1).values
    return rising.masked_fill(rising == last, ABSENT)


def positions_of(chosen_TK: torch.Tensor, at_T: torch.Tensor, block: int) -> torch.Tensor:
    """Positions [T, X] of the chosen blocks that are not after the query, in order, absent ones last."""
    inside_L = torch.arange(block, device=chosen_TK.device)
    places_TX = (chosen_TK.unsqueeze(-1) * block + inside_L).flatten(1)
    absent_TX = (chosen_TK == ABSENT).repeat_interleave(block, 1) | (places_TX > at_T.unsqueeze(1))
    return _trimmed(absent_last(places_TX.masked_fill(absent_TX, ABSENT)))


def window_positions(at_T: torch.Tensor, size: int) -> torch.Tensor:
    """The last `size` positions [T, X] of every query, absent ones last."""
    places_TX = at_T.unsqueeze(1) - torch.arange(size, device=at_T.device)
    return _trimmed(absent_last(places_TX.clamp(min=ABSENT)))


def _trimmed(places_TX: torch.Tensor) -> torch.Tensor:
    """Without columns in which all are absent."""
    return places_TX[:, : int((places_TX != ABSENT).sum(1).max()) if places_TX.numel() else 0]
