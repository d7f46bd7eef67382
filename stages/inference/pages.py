"""Pages of the cache: who uses them, and what the unused ones still hold.

A full page is known by a digest of its model, all tokens before it and its own tokens (a hash tree: the digest of a
page covers that of its parent), so that a prompt finds the pages of its longest known prefix. Same idea as the prefix
caches of vLLM (block hashes) and SGLang (radix tree).
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from longcat.stages.inference.free_pages import FreePages

# Pages evicted at once, so that one sequence can be given consecutive ones.
EVICTED_TOGETHER = 8


class PagePool:
    """Reference-counted pages of `page_size` positions.

    A page is free, used (by one or more sequences), or cached: unused and known by a digest. Cached pages are evicted
    when there are no free ones, the least recently used first and children before their parents.

    Args:
        pages: number of pages; they are numbered from 0.
        page_size: positions per page.
        root: digest of the model and of everything else that the contents of pages depend on.
        lookahead: how many tokens after a page its contents depend on; 1 for a model with one MTP layer. Such a page is
            known by these tokens too.
    """

    def __init__(self, pages: int, page_size: int, root: bytes, lookahead: int = 0) -> None:
        if min(pages, page_size) < 1:
            raise ValueError(f"{pages} pages of {page_size} positions")
        self.pages = pages
        self.page_size = page_size
        self.root = root
        self.lookahead = lookahead
        self.queried_tokens = 0
        self.hit_tokens = 0
        self.evictions = 0
        self._start = blake2b(root).digest()
        self._uses = [0] * pages
        self._free = FreePages(pages)
        self._page_of: dict[bytes, int] = {}
        self._digest_of: dict[int, bytes] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def free_pages(self) -> int:
        """Pages that hold nothing."""
        return len(self._free)

    @property
    def cached_pages(self) -> int:
        """Unused pages with known contents."""
        return len(self._cached)

    @property
    def available(self) -> int:
        """Pages that can be taken."""
        return len(self._free) + len(self._cached)

    @property
    def used_pages(self) -> int:
        """Pages of sequences; a shared page counts once."""
        return self.pages - self.available

    def pages_for(self, positions: int) -> int:
        """Number of pages that hold `positions` positions."""
        return -(-positions // self.page_size)

    def uses(self, page: int) -> int:
        """How many sequences use a page."""
        return self._uses[page]

    def extend_chain(self, chain: list[bytes], ids: Sequence[int]) -> None:
        """Append to `chain` the digests of the full pages of `ids` that it lacks."""
        size = self.page_size
        while (end := (len(chain) + 1) * size) + self.lookahead <= len(ids):
            contents = array("q", ids[end - size : end + self.lookahead]).tobytes()
            chain.append(blake2b((chain[-1] if chain else self._start) + contents, digest_size=32).digest())

    def match(self, chain: Sequence[bytes], limit: int) -> list[int]:
        """The pages of the longest known prefix of at most `limit` positions; takes no reference, see `share`."""
        found: list[int] = []
        for digest in chain[: limit // self.page_size]:
            page = self._page_of.get(digest)
            if page is None:
                break
            found.append(page)
        return found

    def cached_among(self, pages: Iterable[int]) -> int:
        """How many of `pages` are cached: available now, but not once they are shared."""
        return sum(page in self._cached for page in pages)

    def share(self, pages: Iterable[int]) -> None:
        """Add a reference to each of `pages`, which are used or cached."""
        for page in pages:
            self._cached.pop(page, None)
            self._uses[page] += 1

    def take(self, count: int, after: int | None = None) -> list[int]:
        """Take `count` of the available pages for one sequence, best those that follow its page `after`."""
        if count > self.available:
            raise ValueError(f"{count} pages were asked for, {self.available} are available")
        if count > len(self._free):
            self._evict(max(count - len(self._free), min(EVICTED_TOGETHER, len(self._cached))))
        taken = self._free.take(count, after)
        for page in taken:
            self._uses[page] = 1
        return taken

    def register(self, page: int, digest: bytes) -> None:
        """Make the contents of a used page known; without effect if another page has the same contents."""
        if digest not in self._page_of and page not in self._digest_of:
            self._page_of[digest] = page
            self._digest_of[page] = digest

    def forget(self, page: int) -> None:
        """Make the contents of a page unknown, since they are about to change."""
        digest = self._digest_of.pop(page, None)
        if digest is not None:
            del self._page_of[digest]

    def release(self, pages: Sequence[int], chain: Sequence[bytes]) -> None:
        """Drop one reference to each of `pages`, all pages of a sequence with this chain of digests."""
        for page in pages:
            self._uses[page] -= 1
            if self._uses[page] == 0:
                if page in self._digest_of:
                    self._cached[page] = None
                else:
                    self._free.add(page)
        # The prefix was used as well, even where it lies in pages that were computed by another sequence. The last page
        # comes first, so that no page is evicted before its cached descendants.
        for digest in reversed(chain[: len(pages)]):
            known = self._page_of.get(digest)
            if known is not None and known in self._cached:
                self._cached.move_to_end(known)

    def clear(self, root: bytes) -> None:
        """Forget all contents, for a model with another `root`.

        Raises:
            ValueError: pages are in use.
        """
        if self.used_pages:
            raise ValueError(f"{self.used_pages} pages are in use")
        self.root = root
        self._start = blake2b(root).digest()
        for page in self._cached:
            self._free.add(page)
        self._cached.clear()
        self._page_of.clear()
        self._digest_of.clear()

    def _evict(self, count: int) -> None:
        for _ in range(count):
            page, _ = self._cached.popitem(last=False)
            self.forget(page)
            self._free.add(page)
        self.evictions += count
