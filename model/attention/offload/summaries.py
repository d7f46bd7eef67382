"""Summaries of blocks by page: the coarse index of an offloaded cache.

    mean     INT4 means of SUB_BLOCK positions; the score of a block is the greatest of its means (the sum of their
             softmax for `heads = mass`). LongCat Sparse Attention, arXiv 2608.01662, hierarchical indexer.
    minmax   least and greatest value of every channel; q . k <= sum_d max(q_d least_d, q_d greatest_d) for every key k
             of the block. AsyncTLS, arXiv 2604.07815, as that report states it.

Names: P pages, L positions per page, M means per page, W values per position, H heads, N blocks of a sequence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from longcat.model.attention.offload import int4
from longcat.model.attention.offload.options import SUB_BLOCK, OffloadOptions
from longcat.model.attention.offload.selection import Heads, merged, scoring_queries


class Summaries(ABC):
    """Summaries of all pages. A page whose summary is not complete is the newest of its sequence, always resident."""

    part: int  # positions of the parts that are summarised when they are complete

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of all pages."""

    @abstractmethod
    def update(self, parts_X: torch.Tensor, values_XSW: torch.Tensor) -> None:
        """Summarise parts, which are numbered through all pages, from their S = `part` positions."""

    @abstractmethod
    def copy(self, source: int, target: int) -> None:
        """Copy the summary of a page."""

    @abstractmethod
    def scores(self, q_HW: torch.Tensor, pages_N: torch.Tensor, heads: Heads) -> torch.Tensor:
        """Scores [N] of the blocks in these pages; queries have the softmax scale."""


class Means(Summaries):
    part = SUB_BLOCK

    def __init__(self, pages: int, block: int, width: int, device: torch.device) -> None:
        self.per_page = block // SUB_BLOCK
        self._means = int4.empty((pages, self.per_page), width, device)

    @property
    def nbytes(self) -> int:
        return self._means.nbytes

    def update(self, parts_X: torch.Tensor, values_XSW: torch.Tensor) -> None:
        for kept, new in zip(self._means, int4.quantize(values_XSW.mean(dim=1)), strict=True):
            kept.flatten(0, 1).index_copy_(0, parts_X, new.to(kept.device))

    def copy(self, source: int, target: int) -> None:
        for kept in self._means:
            kept[target] = kept[source]

    def scores(self, q_HW: torch.Tensor, pages_N: torch.Tensor, heads: Heads) -> torch.Tensor:
        means_NMW = int4.dequantize(int4.Int4(*(kept.index_select(0, pages_N) for kept in self._means)), q_HW.dtype)
        queries_HW = scoring_queries(q_HW, heads)
        one_X = merged(queries_HW @ means_NMW.flatten(0, 1)[:, : q_HW.shape[1]].t(), heads)
        one_NM = one_X.view(-1, self.per_page)
        return one_NM.sum(dim=1) if heads == "mass" else one_NM.amax(dim=1)


class MinMax(Summaries):
    def __init__(self, pages: int, block: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.part = block
        self._least_PW, self._greatest_PW = torch.zeros(2, pages, width, dtype=dtype, device=device).unbind()

    @property
    def nbytes(self) -> int:
        return self._least_PW.nbytes + self._greatest_PW.nbytes

    def update(self, parts_X: torch.Tensor, values_XSW: torch.Tensor) -> None:
        self._least_PW.index_copy_(0, parts_X, values_XSW.amin(dim=1).to(self._least_PW.device))
        self._greatest_PW.index_copy_(0, parts_X, values_XSW.amax(dim=1).to(self._least_PW.device))

    def copy(self, source: int, target: int) -> None:
        for kept in (self._least_PW, self._greatest_PW):
            kept[target] = kept[source]

    def scores(self, q_HW: torch.Tensor, pages_N: torch.Tensor, heads: Heads) -> torch.Tensor:
        least_NW, greatest_NW = (x.index_select(0, pages_N).to(q_HW.dtype) for x in (self._least_PW, self._greatest_PW))
        queries_HW = scoring_queries(q_HW, heads)
        bounds_HN = queries_HW.clamp(min=0) @ greatest_NW.t() + queries_HW.clamp(max=0) @ least_NW.t()
        return merged(bounds_HN, heads)


def make_summaries(
    options: OffloadOptions, pages: int, width: int, dtype: torch.dtype, device: torch.device
) -> Summaries:
    """Summaries of `pages` pages, as the options say."""
    if options.block_score == "mean":
        return Means(pages, options.block, width, device)
    return MinMax(pages, options.block, width, dtype, device)
