"""The slow tier: memory of the host, or a file without a name, which is gone when the process ends, however it ends.

Names: P pages, L positions per page, W values per position.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import tempfile
import threading

import torch

from longcat.model.attention.offload.options import OffloadOptions
from longcat.model.errors import ModelError

# Bytes of a file that may be read or written before its pages are given back to the system's cache.
KEPT_BYTES = 32 << 20
# A page fault may bring this much into the process.
FAULT_BYTES = 2 << 20


class SlowTier:
    """Memory for `nbytes` bytes in all, on the CPU.

    Raises:
        ModelError: the folder is missing, not writable, or has too little room.
    """

    def __init__(self, options: OffloadOptions, nbytes: int, *, pinned: bool) -> None:
        self._pinned = pinned
        self._map = None if options.folder is None else _reserved(str(options.folder), nbytes)
        self._end = self._touched = 0
        self._lock = threading.Lock()

    @property
    def on_disk(self) -> bool:
        return self._map is not None

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Zeros of this shape."""
        if self._map is None:
            return torch.empty(shape, dtype=dtype, pin_memory=self._pinned).fill_(0)
        count = math.prod(shape)
        found = torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._end)  # a hole of a file is zeros
        self._end += count * dtype.itemsize
        return found.view(shape)

    def touched(self, nbytes: int) -> None:
        """Count bytes that were read or written, from any thread, so that a file does not fill the process's memory."""
        if self._map is None:
            return
        with self._lock:
            self._touched += max(nbytes, FAULT_BYTES)
            if self._touched >= KEPT_BYTES:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._touched = 0


class SlowPages:
    """The pages of one mixer in the slow tier, [P, L, W], and how often each was begun anew."""

    def __init__(self, pages_PLW: torch.Tensor, tier: SlowTier) -> None:
        self.pages_PLW, self.tier = pages_PLW, tier
        self.versions = [0] * pages_PLW.shape[0]

    def read(self, page: int, out_LW: torch.Tensor) -> None:
        """Copy a page, on the present stream if `out_LW` is on a GPU."""
        out_LW.copy_(self.pages_PLW[page], non_blocking=True)
        self.tier.touched(out_LW.nbytes)


def _reserved(folder: str, nbytes: int) -> mmap.mmap:
    """Shared map of a file of `nbytes` bytes, all of them reserved: a full disk must not end the process later."""
    where = f"offload.folder {folder!r}"
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            os.posix_fallocate(file.fileno(), 0, nbytes)
            found = mmap.mmap(file.fileno(), nbytes)
        except FileNotFoundError:
            raise ModelError(f"{where}: there is no such folder; create it, or name another one") from None
        except OSError as error:
            needed = f"{nbytes / 2**30:.2f} GiB"
            raise ModelError(
                f"{where}: no file of {needed} can be made there ({error.strerror}); name another folder, or lower "
                "cache_tokens"
            ) from None
    return found
