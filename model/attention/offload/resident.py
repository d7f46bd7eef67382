"""Blocks of sequences in the fast tier, and where they are: frames by slot.

Names: Q slots, F frames of all slots, L positions per block, W values per position, R channels of the index.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import torch

from longcat.model.attention.offload import int4
from longcat.model.attention.offload.copier import Copier
from longcat.model.attention.offload.slow_tier import SlowPages


class _Held(NamedTuple):
    """A block in a frame: the page it was read from, and how often that page had been begun anew."""

    frame: int
    page: int
    version: int


class Fetched(NamedTuple):
    """What a fetch moved: blocks that were asked for, those of them that were missing, and bytes."""

    asked: int
    missing: int
    nbytes: int


class Resident:
    """Up to `blocks` blocks of every slot, with an INT4 index of that many channels of their values, if not None."""

    def __init__(
        self,
        slots: int,
        blocks: int,
        index_channels: int | None,
        device: torch.device,
        copier: Copier,
        slow: SlowPages,
    ) -> None:
        shape = slow.pages_PLW.shape[1:]
        self.frames_FLW = torch.zeros(slots * blocks, *shape, dtype=slow.pages_PLW.dtype, device=device)
        self.channels_R: torch.Tensor | None = None  # set before the first use of the index
        self._index = None if index_channels is None else int4.empty((slots * blocks, shape[0]), index_channels, device)
        self._held: list[dict[int, _Held]] = [{} for _ in range(slots)]
        self._free = [list(range((slot + 1) * blocks - 1, slot * blocks - 1, -1)) for slot in range(slots)]
        self._unindexed: set[int] = set()
        self._copier, self._slow = copier, slow
        self._pending: list[Callable[[], None]] = []

    @property
    def nbytes(self) -> int:
        """Bytes of blocks and index."""
        return self.frames_FLW.nbytes + (0 if self._index is None else self._index.nbytes)

    def settle(self) -> None:
        """Wait for the copies under way; nothing else may be called before."""
        pending, self._pending = self._pending, []
        for wait in pending:
            self._finish(wait)

    def _finish(self, wait: Callable[[], None]) -> None:
        """Wait for a copy; if it failed, frames may hold anything, and none is used again."""
        try:
            wait()
        except BaseException:
            for held, free in zip(self._held, self._free, strict=True):
                free += [one.frame for one in held.values()]
                held.clear()
            raise

    def has(self, slot: int, block: int, page: int) -> bool:
        """Whether the fast tier has the block, with the present contents of this page."""
        held = self._held[slot].get(block)
        return held is not None and held[1:] == (page, self._slow.versions[page])

    def frames(self, slot: int, blocks: Iterable[int]) -> list[int]:
        """Frames of blocks, all of which are there."""
        held = self._held[slot]
        return [held[block].frame for block in blocks]

    def fetch(self, slot: int, blocks: Collection[int], table: Sequence[int], *, later: bool = False) -> Fetched:
        """Bring these blocks, whose pages are in `table`, and drop all others of the slot. `later`: do not wait."""
        held, free = self._held[slot], self._free[slot]
        wanted = set(blocks)
        for block in list(held):
            if block not in wanted or not self.has(slot, block, table[block]):
                free.append(held.pop(block).frame)
        missing = sorted(wanted - held.keys())
        places = []
        for block in missing:
            page = table[block]
            held[block] = _Held(free.pop(), page, self._slow.versions[page])
            places.append((page, held[block].frame))
        if places:
            new = {frame for _, frame in places}
            # The copy indexes them, once the channels are known.
            self._unindexed = self._unindexed | new if self.channels_R is None else self._unindexed - new
            self._pending.append(self._copier.submit(partial(self._copy, places, self.channels_R)))
            if not later:
                self.settle()
        return Fetched(len(wanted), len(missing), len(missing) * self.frames_FLW[0].nbytes)

    def _copy(self, places: Sequence[tuple[int, int]], channels_R: torch.Tensor | None) -> None:
        for page, frame in places:
            self._slow.read(page, self.frames_FLW[frame])
        if channels_R is not None:
            self._pack([frame for _, frame in places], channels_R)

    def _pack(self, frames: Sequence[int], channels_R: torch.Tensor) -> None:
        """Index these frames."""
        assert self._index is not None  # noqa: S101  the options ask for an index
        places = torch.tensor(frames, device=self.frames_FLW.device)
        packed = int4.quantize(self.frames_FLW.index_select(0, places).index_select(2, channels_R))
        for kept, part in zip(self._index, packed, strict=True):
            kept.index_copy_(0, places, part)

    def put(self, slot: int, block: int, page: int, first: int, values_TW: torch.Tensor) -> None:
        """Write positions of a block, from index `first` on, that the slow tier got too."""
        if self.has(slot, block, page):
            frame = self._held[slot][block].frame
            self.frames_FLW[frame, first : first + values_TW.shape[0]] = values_TW
            self._unindexed.add(frame)

    def index(self, frames: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Index vectors [frames, L, R] of these frames."""
        assert self._index is not None and self.channels_R is not None  # noqa: S101  the options ask for an index
        new = [frame for frame in frames if frame in self._unindexed]
        if new:
            self._pack(new, self.channels_R)
            self._unindexed.difference_update(new)
        places = torch.tensor(frames, device=self.frames_FLW.device)
        found = int4.Int4(*(kept.index_select(0, places) for kept in self._index))
        return int4.dequantize(found, dtype)[..., : len(self.channels_R)]
