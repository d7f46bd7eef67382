"""Bounds of the documents of a batch, computed once per batch and used by every layer.

Names: B batch, T tokens per row.
"""

from collections.abc import MutableMapping
from functools import cached_property
from itertools import pairwise

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from longcat.kernels.mla_attention.length_groups import LengthGroups
from longcat.kernels.select import KernelError


class DocumentBounds:
    """The documents of B rows of T tokens, in the forms needed by attention on the host and by kernels on a device.

    Built by `document_bounds`. Rows of the batch are always independent: a document that continues in the next row
    counts as two.
    """

    def __init__(self, cu_seqlens: torch.Tensor, batch: int, tokens: int, device: torch.device) -> None:
        self.cu_seqlens, self.batch, self.tokens, self.device = cu_seqlens, batch, tokens, device
        if cu_seqlens.device.type == "cpu":
            _check(cu_seqlens.tolist(), batch * tokens)
        if device.type != "cpu":
            _ = self.spans_2BT

    @cached_property
    def lengths(self) -> list[int]:
        """The lengths of the documents, in order. Synchronizes with the device of `cu_seqlens`."""
        total = self.batch * self.tokens
        bounds = self.cu_seqlens.tolist()
        _check(bounds, total)
        edges = sorted({*bounds, *range(0, total + 1, max(self.tokens, 1))})
        return [high - low for low, high in pairwise(edges)]

    @cached_property
    def groups(self) -> LengthGroups:
        """The documents by length. Synchronizes as `lengths` does."""
        return LengthGroups(self.lengths)

    @cached_property
    def spans_2BT(self) -> torch.Tensor:  # noqa: N802
        """Start and end (exclusive), within its row, of the document of every token; int32 [2, B, T].

        Computed without synchronization. If `cu_seqlens` do not increase from 0 to B * T, some documents are wrong, but
        none extends beyond its row.
        """
        spans_2BT = _spans(self.cu_seqlens, self.batch, self.tokens)
        if spans_2BT.device.type == "cpu" and self.device.type == "cuda":
            spans_2BT = spans_2BT.pin_memory()  # a copy from pageable memory would synchronize
        return spans_2BT.to(self.device, non_blocking=True)


def document_bounds(
    cu_seqlens: torch.Tensor, batch: int, tokens: int, device: torch.device | None = None
) -> DocumentBounds:
    """The documents of `batch` rows of `tokens` tokens, for attention on `device` (that of `cu_seqlens` by default).

    `cu_seqlens`, int32 or int64 [documents + 1], are cumulative lengths over the flattened tokens, from 0 to
    batch * tokens, on a CPU or on `device`. The result is cached as long as the tensor exists and is unchanged,
    so that layers which pass the same tensor share it.

    Raises:
        KernelError: `cu_seqlens` on a CPU does not increase from 0 to batch * tokens; on a GPU this is detected only
            when `lengths` is read, because the host would have to wait.
    """
    device = cu_seqlens.device if device is None else device
    if cu_seqlens.is_inference():  # has no version counter
        return DocumentBounds(cu_seqlens, batch, tokens, device)
    key = (cu_seqlens._version, batch, tokens, device)
    known = _KNOWN.get(cu_seqlens)
    if known is None or known[0] != key:
        # The view does not keep the key alive; the tensor itself would.
        known = _KNOWN[cu_seqlens] = (key, DocumentBounds(cu_seqlens.detach(), batch, tokens, device))
    return known[1]


def document_lengths(cu_seqlens: torch.Tensor, batch: int, tokens: int) -> list[int]:
    """The lengths of the documents in `batch` rows of `tokens` tokens, also split at row boundaries.

    Raises:
        KernelError: `cu_seqlens` does not increase from 0 to batch * tokens.
    """
    return document_bounds(cu_seqlens, batch, tokens).lengths


# For every live tensor: (version, batch, tokens, device) and the bounds.
_KNOWN: MutableMapping[torch.Tensor, tuple[tuple[object, ...], DocumentBounds]] = WeakTensorKeyDictionary()


def _spans(cu_seqlens: torch.Tensor, batch: int, tokens: int) -> torch.Tensor:
    bounds_N, device = cu_seqlens.to(torch.int64), cu_seqlens.device
    place_X = torch.arange(batch * tokens, device=device)
    after_X = torch.searchsorted(bounds_N, place_X, right=True).clamp(1, max(bounds_N.shape[0] - 1, 1))
    row_X = place_X // max(tokens, 1) * tokens
    spans_2X = torch.stack((bounds_N[after_X - 1] - row_X, bounds_N[after_X] - row_X)).clamp(0, tokens)
    return spans_2X.to(torch.int32).view(2, batch, tokens)


def _check(bounds: list[int], total: int) -> None:
    rising = all(low <= high for low, high in pairwise(bounds))
    if not bounds or bounds[0] != 0 or bounds[-1] != total or not rising:
        raise KernelError(f"mla_attention: cu_seqlens must rise from 0 to {total} (batch * tokens), got {bounds}")
