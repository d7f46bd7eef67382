"""Memory of a step over many sequences: pages shared by all sequences, and slots for states that are not per position.

Names: K mixers with states of the same kind, P pages, L positions per page, W values per position, Q slots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from longcat.kernels.precision import accumulation_dtype
from longcat.model.attention.offload.copier import make_copier
from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.attention.offload.slow_tier import SlowTier
from longcat.model.attention.offload.state import OffloadState
from longcat.model.attention.offload.stats import OffloadStats
from longcat.model.attention.pages import (
    PageState,
    PerPosition,
    PerSequence,
    Several,
    SingleState,
    SlotState,
    StateKind,
    StepLayout,
    StepState,
)
from longcat.model.errors import ModelError


class PagedCache:
    """States of all mixers, those of multi-token prediction last; `LongcatFlash.new_pages` makes one.

    All memory is allocated and written here, so that the process does not grow while it serves. A page holds
    `page_size` positions of all layers and of multi-token prediction.
    """

    def __init__(
        self,
        kinds: Sequence[StateKind],
        mtp_kinds: Sequence[StateKind],
        pages: int,
        page_size: int,
        slots: int,
        dtype: torch.dtype,
        device: torch.device,
        offload: OffloadOptions | None = None,
    ) -> None:
        single = [one for kind in (*kinds, *mtp_kinds) for one in _parts(kind)]
        _check_sizes(pages, page_size, slots, single)
        self.pages, self.page_size, self.slots, self.dtype, self.device = pages, page_size, slots, dtype, device
        self.offload, self.offload_stats = offload, OffloadStats()
        self._paged: list[torch.Tensor] = []
        self._offloaded: list[OffloadState] = []
        self._on_disk = 0
        made = self._states(single)
        self._slotted = [state for state in made if isinstance(state, SlotState)]
        left = iter(made)
        self.layer_states = tuple(_joined(kind, left) for kind in kinds)
        self.mtp_states = tuple(_joined(kind, left) for kind in mtp_kinds)

    def _states(self, kinds: Sequence[PerPosition | PerSequence]) -> list[SingleState]:
        """A state for every kind; equal ones share one tensor, so that a page is copied in one call."""
        found: dict[int, SingleState] = {}
        for kind in dict.fromkeys(kinds):
            places = [place for place, other in enumerate(kinds) if other == kind]
            if isinstance(kind, PerPosition) and kind.offloaded:
                found |= zip(places, self._slow_states(kind.width, len(places)), strict=True)
            elif isinstance(kind, PerPosition):
                pages_KPLW = self._memory(len(places), self.pages, self.page_size // kind.every, kind.width)
                self._paged.append(pages_KPLW)
                found |= {place: PageState(pages) for place, pages in zip(places, pages_KPLW.unbind(), strict=True)}
            else:
                values_KQ = self._memory(len(places), self.slots, *kind.shape, wide=kind.wide)
                found |= {place: SlotState(values) for place, values in zip(places, values_KQ.unbind(), strict=True)}
        return [found[place] for place in range(len(kinds))]

    def _slow_states(self, width: int, count: int) -> list[OffloadState]:
        options = self.offload
        if options is None:
            raise ModelError("a cache with offloaded positions needs the options of offloading")
        _check_offload(options, self.pages, self.page_size, self.slots)
        shape = (count, self.pages, self.page_size, width)
        nbytes = math.prod(shape) * self.dtype.itemsize
        tier = SlowTier(options, nbytes, pinned=self.device.type == "cuda")
        pages_KPLW = tier.take(shape, self.dtype)
        self._paged.append(pages_KPLW)
        self._on_disk += nbytes if tier.on_disk else 0
        shared = (tier, make_copier(options.mode, self.device), self.offload_stats, self.device)
        made = [OffloadState(pages_PLW, self.slots, options, *shared) for pages_PLW in pages_KPLW.unbind()]
        self._offloaded += made
        return made

    def _memory(self, *shape: int, wide: bool = False) -> torch.Tensor:
        dtype = accumulation_dtype(self.dtype) if wide else self.dtype
        return torch.empty(shape, dtype=dtype, device=self.device).fill_(0)

    @property
    def bytes_per_page(self) -> int:
        """Bytes of one page in all layers."""
        return sum(tensor.nbytes for tensor in self._paged) // self.pages

    @property
    def bytes_per_slot(self) -> int:
        """Bytes of one slot in all layers, 0 if every mixer keeps its state by position."""
        return sum(state.values.nbytes for state in self._slotted) // max(self.slots, 1)

    @property
    def nbytes(self) -> int:
        """Allocated bytes of memory; an offloaded cache may have others on disk."""
        paged = self.bytes_per_page * self.pages - self._on_disk
        return paged + self.bytes_per_slot * self.slots + self.resident_bytes

    @property
    def resident_bytes(self) -> int:
        """Bytes of the fast tier of an offloaded cache, 0 for another one."""
        return sum(state.resident_bytes for state in self._offloaded)

    @property
    def recurrent(self) -> bool:
        """Whether a mixer keeps a state per sequence, which cannot be shared by prefix or go back by itself."""
        return bool(self._slotted)

    def check(self, layout: StepLayout) -> None:
        """Raise ModelError unless the pages and slots of a step are in this cache."""
        if layout.page_size != self.page_size:
            raise ModelError(
                f"the batch is made for pages of {layout.page_size} positions, the cache has {self.page_size}"
            )
        self._check_range("page", self.pages, *layout.page_range)
        if self.recurrent or self._offloaded:
            self._check_range("slot", self.slots, *(span.slot for span in layout.spans))
            if len({span.slot for span in layout.spans}) < len(layout.spans):
                raise ModelError("two pieces of a step have the same slot; every sequence needs its own")

    def copy(self, source: int, target: int) -> None:
        """Copy page `source` to page `target` in all layers.

        Raises:
            ModelError: there is no such page.
        """
        self._check_range("page", self.pages, source, target)
        for state in self._offloaded:
            state.settle()
            state.copied(source, target)
        for pages_KPLW in self._paged:
            pages_KPLW[:, target] = pages_KPLW[:, source]

    def copy_slot(self, source: int, target: int) -> None:
        """Copy slot `source` to slot `target` in all layers, to fork a sequence or to keep its present state.

        Raises:
            ModelError: there is no such slot.
        """
        self._check_range("slot", self.slots, source, target)
        for state in self._slotted:
            state.copy(source, target)

    def _check_range(self, name: str, count: int, *values: int) -> None:
        for value in values:
            if not 0 <= value < count:
                raise ModelError(f"there is no {name} {value}: the cache has {count}, from 0 on")


def _parts(kind: StateKind) -> tuple[PerPosition | PerSequence, ...]:
    return kind.kinds if isinstance(kind, Several) else (kind,)


def _joined(kind: StateKind, states: Iterator[SingleState]) -> StepState:
    """The state of a mixer, of the next ones."""
    return tuple(next(states) for _ in kind.kinds) if isinstance(kind, Several) else next(states)


def _check_sizes(pages: int, page_size: int, slots: int, kinds: Sequence[PerPosition | PerSequence]) -> None:
    if pages < 1 or page_size < 1 or slots < 0:
        raise ModelError(
            f"a cache needs at least one page of one position, got pages = {pages}, page_size = {page_size}, "
            f"slots = {slots}"
        )
    for kind in kinds:
        if isinstance(kind, PerPosition) and page_size % kind.every:
            raise ModelError(
                f"an attention kind keeps a summary of every {kind.every} positions, which pages of {page_size} "
                f"positions do not hold; make page_size a multiple of {kind.every}"
            )
    if not slots and any(isinstance(kind, PerSequence) for kind in kinds):
        raise ModelError("the model keeps a state per sequence; make the cache with slots = number of sequences")


def _check_offload(options: OffloadOptions, pages: int, page_size: int, slots: int) -> None:
    if page_size != options.block:
        raise ModelError(f"page_size = {page_size} must be offload.block = {options.block}: a block is a page")
    if slots < 1:
        raise ModelError("an offloaded cache keeps blocks for every sequence; make it with slots = number of sequences")
    held = slots * (options.resident_blocks + 1)
    if held >= pages:
        raise ModelError(
            f"offload.resident_blocks = {options.resident_blocks} for {slots} sequences are {held} blocks, and the "
            f"whole cache has {pages}: nothing would be saved; lower max_sequences or offload.resident_blocks, or "
            "raise cache_tokens"
        )
