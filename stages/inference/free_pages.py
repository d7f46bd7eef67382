"""Numbers of free pages as runs of consecutive ones."""

from __future__ import annotations

from collections.abc import Iterator


class FreePages:
    """Free pages; a sequence is given consecutive ones where possible, which a kernel can read without a copy."""

    def __init__(self, pages: int) -> None:
        self._length = {0: pages} if pages else {}  # of the run that begins at a page
        self._begin = {pages: 0} if pages else {}  # of the run that ends before a page
        self._count = pages

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for begin, length in self._length.items():
            yield from range(begin, begin + length)

    def add(self, page: int) -> None:
        """Add a page, joining the runs on both sides of it."""
        begin = self._begin.pop(page, page)
        self._length.pop(begin, None)
        end = page + 1 + self._length.pop(page + 1, 0)
        self._insert(begin, end)
        self._count += 1

    def take(self, count: int, after: int | None) -> list[int]:
        """Remove `count` pages, continuing `after`, a page in use, where that is possible; there must be as many."""
        taken: list[int] = []
        while len(taken) < count:
            wanted = count - len(taken)
            begin = self._next(taken[-1] if taken else after, wanted)
            taken += self._remove(begin, wanted)
        return taken

    def _next(self, after: int | None, wanted: int) -> int:
        if after is not None and after + 1 in self._length:
            return after + 1
        begin, length = max(self._length.items(), key=lambda run: run[1])
        # The first half is left to the sequence that ends before this run, which may grow.
        return begin + length // 2 if length // 2 >= wanted else begin

    def _remove(self, begin: int, wanted: int) -> range:
        """Remove up to `wanted` consecutive pages from `begin` on."""
        run = begin if begin in self._length else next(b for b, n in self._length.items() if b < begin < b + n)
        end = run + self._length.pop(run)
        del self._begin[end]
        taken = range(begin, min(begin + wanted, end))
        self._insert(run, begin)
        self._insert(taken.stop, end)
        self._count -= len(taken)
        return taken

    def _insert(self, begin: int, end: int) -> None:
        if begin < end:
            self._length[begin] = end - begin
            self._begin[end] = begin
