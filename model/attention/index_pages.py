"""Hierarchical choice at decoding: pages first, by the mean keys of their blocks, then positions inside these pages
(LongCat Sparse Attention, arXiv 2608.01662, section on the hierarchical indexer).

    score of a page = sum over its blocks n of sum_j w_j ReLU(q_j . mean of the keys of n)

The means are kept beside the keys; that of a block is formed again from its keys whenever one of them is written, so it
is right after a sequence was cut too. An indexer's page is not a page of the cache.

Names: S positions, Z blocks, I width of keys, J heads, K chosen positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from longcat.kernels.index_scores import Always, index_scores, largest, restrict
from longcat.model.attention.pages import PageState, StepLayout


class PageSizes(NamedTuple):
    """kept: pages whose positions are scored. page, block: positions of a page and of a block of it."""

    kept: int
    page: int
    block: int

    def takes(self, length: int) -> bool:
        """Whether a sequence has more positions than the kept pages."""
        return length > self.kept * self.page


def store_means(keys: PageState, means: PageState, layout: StepLayout, block: int) -> None:
    """Form the means of all blocks to which the step has written keys; those of the others stay."""
    places_T = layout.places_T
    blocks_Z, index_T = torch.unique(places_T // block, return_inverse=True)
    ends_Z = torch.zeros_like(blocks_Z)
    ends_Z.scatter_reduce_(0, index_T, places_T % block + 1, "amax")  # positions of a block that are cached
    keys_NBI = keys.pages_PLW.view(-1, block, keys.pages_PLW.shape[-1])
    held_ZBI = keys_NBI.index_select(0, blocks_Z)
    later_ZB = torch.arange(block, device=ends_Z.device) >= ends_Z.unsqueeze(1)
    mean_ZI = held_ZBI.masked_fill(later_ZB.unsqueeze(2), 0.0).sum(1) / ends_Z.unsqueeze(1)
    means.pages_PLW.view(-1, means.pages_PLW.shape[-1]).index_copy_(0, blocks_Z, mean_ZI.to(means.pages_PLW.dtype))


def choose_in_pages(
    q_1JI: torch.Tensor,
    w_1J: torch.Tensor,
    keys_SI: torch.Tensor,
    means_ZI: torch.Tensor,
    count: int,
    always: Always,
    sizes: PageSizes,
) -> torch.Tensor:
    """Positions [1, K] of one query, the last of S positions; `means_ZI`: those of all its blocks."""
    length, blocks = keys_SI.shape[0], sizes.page // sizes.block
    scores_Z = index_scores(q_1JI, means_ZI, w_1J)[0]
    whole = -(-length // sizes.page)
    padded = torch.nn.functional.pad(scores_Z, (0, whole * blocks - scores_Z.shape[0]))
    scores_1P = padded.view(1, whole, blocks).sum(-1)
    # Pages with positions that are chosen in any case are kept, and so is the last one.
    scores_1P[:, : -(-always.first // sizes.page)] = float("inf")
    scores_1P[:, (length - max(always.last, 1)) // sizes.page :] = float("inf")
    pages_P = largest(scores_1P, sizes.kept)[0]
    offsets = torch.arange(sizes.page, device=pages_P.device)
    position_C = (pages_P.unsqueeze(1) * sizes.page + offsets).view(-1)[: sizes.kept * sizes.page]
    position_C = position_C[position_C < length]
    candidates_1C = index_scores(q_1JI, keys_SI.index_select(0, position_C), w_1J)
    forced_C = (position_C < always.first) | (position_C >= length - always.last)
    candidates_1C.masked_fill_(forced_C, float("inf"))
    return position_C[largest(candidates_1C, count)]


def choose_all(
    q_1JI: torch.Tensor, w_1J: torch.Tensor, keys_SI: torch.Tensor, count: int, always: Always
) -> torch.Tensor:
    """The same from all positions."""
    scores_1S = index_scores(q_1JI, keys_SI, w_1J)
    restrict(scores_1S, keys_SI.shape[0] - 1, always)
    return largest(scores_1S, count)
