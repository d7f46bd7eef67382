"""Pages of the cache: what is known, what is evicted, which numbers are handed out."""

from __future__ import annotations

import subprocess
import sys

import pytest

from longcat.stages.inference.free_pages import FreePages
from longcat.stages.inference.pages import PagePool

IDS = list(range(20))


def fill(pool: PagePool, ids: list[int]) -> tuple[list[int], list[bytes]]:
    """Pages and digests of a sequence that has computed `ids`."""
    chain: list[bytes] = []
    pool.extend_chain(chain, ids)
    pages = pool.take(pool.pages_for(len(ids)))
    for page, digest in zip(pages, chain, strict=False):
        pool.register(page, digest)
    return pages, chain


def lookup(pool: PagePool, ids: list[int], limit: int | None = None) -> list[int]:
    chain: list[bytes] = []
    pool.extend_chain(chain, ids)
    return pool.match(chain, len(ids) - 1 if limit is None else limit)


def test_the_longest_known_prefix_of_full_pages_is_found() -> None:
    pool = PagePool(8, 4, b"m")
    pages, _ = fill(pool, IDS[:10])
    assert lookup(pool, IDS) == pages[:2]
    assert lookup(pool, [*IDS[:6], 99, *IDS[7:]]) == pages[:1]
    assert lookup(pool, [99, *IDS[1:]]) == []
    assert lookup(pool, IDS[4:]) == []


def test_the_last_id_is_never_found_since_its_logits_are_needed() -> None:
    pool = PagePool(8, 4, b"m")
    pages, _ = fill(pool, IDS[:8])
    assert lookup(pool, IDS[:8]) == pages[:1]
    assert lookup(pool, IDS[:9]) == pages
    assert lookup(pool, IDS[:9], limit=7) == pages[:1]


def test_with_lookahead_a_page_is_found_only_if_the_token_after_it_is_the_same() -> None:
    pool = PagePool(8, 4, b"m", lookahead=1)
    pages, chain = fill(pool, IDS[:9])
    assert len(chain) == 2
    assert lookup(pool, IDS) == pages[:2]
    assert lookup(pool, [*IDS[:8], 99, 99]) == pages[:1]


def test_unused_pages_stay_known_until_they_are_evicted() -> None:
    pool = PagePool(4, 4, b"m")
    pages, chain = fill(pool, IDS[:10])
    pool.release(pages, chain)
    assert (pool.used_pages, pool.cached_pages, pool.free_pages) == (0, 2, 2)
    pool.take(2)
    assert pool.evictions == 0 and lookup(pool, IDS) == pages[:2]
    pool.take(2)
    assert pool.evictions == 2 and lookup(pool, IDS) == []
    with pytest.raises(ValueError, match="0 are available"):
        pool.take(1)


def test_leaves_are_evicted_first_the_least_recently_used_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("longcat.stages.inference.pages.EVICTED_TOGETHER", 1)
    pool = PagePool(5, 4, b"m")
    old, other = IDS[:9], [50, *IDS[:8]]
    for ids in (old, other):
        pages, chain = fill(pool, ids)
        pool.release(pages, chain)
    found = lookup(pool, old)
    pool.share(found)
    chain = []
    pool.extend_chain(chain, old)
    pool.release(found, chain)
    left = []
    for _ in range(5):
        pool.take(1)
        left.append((len(lookup(pool, old)), len(lookup(pool, other))))
    assert left == [(2, 2), (2, 1), (2, 0), (1, 0), (0, 0)]


def test_a_parent_computed_by_another_sequence_is_not_evicted_before_its_child() -> None:
    pool = PagePool(6, 4, b"m")
    first, chain = fill(pool, IDS[:4])
    second, longer = fill(pool, IDS[:8])  # its first page is a duplicate and not registered
    pool.release(first, chain)
    pool.release(second, longer)
    assert lookup(pool, IDS) == [first[0], second[1]]
    pool._evict(1)
    assert lookup(pool, IDS) == [first[0]]


def test_other_models_and_processes() -> None:
    """Digests depend on the model, and not on the hash seed of a process."""
    chains: list[list[bytes]] = [[], []]
    for chain, root in zip(chains, (b"a", b"b"), strict=True):
        PagePool(8, 4, root).extend_chain(chain, IDS)
    assert not set(chains[0]) & set(chains[1])
    code = (
        "from longcat.stages.inference.pages import PagePool; c = [];"
        "PagePool(8, 4, b'a').extend_chain(c, list(range(20))); print(c[-1].hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path}; {code}"],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert printed == {chains[0][-1].hex()}


def test_clear_forgets_everything() -> None:
    pool = PagePool(4, 4, b"m")
    pages, chain = fill(pool, IDS[:8])
    with pytest.raises(ValueError, match="2 pages are in use"):
        pool.clear(b"n")
    pool.release(pages, chain)
    pool.clear(b"n")
    assert pool.free_pages == 4 and lookup(pool, IDS) == []
    pool.clear(b"m")
    assert lookup(pool, IDS) == []


def test_free_pages_are_handed_out_as_runs() -> None:
    free = FreePages(16)
    first = free.take(4, None)
    second = free.take(2, None)
    assert first == list(range(first[0], first[0] + 4)) and second == list(range(second[0], second[0] + 2))
    # Both can grow in place.
    for pages in (first, second, first, second):
        pages.extend(free.take(1, pages[-1]))
    assert first == list(range(first[0], first[0] + 6)) and second == list(range(second[0], second[0] + 4))
    for page in (*first, *second):
        free.add(page)
    assert free.take(16, None) == list(range(16)) and len(free) == 0


def test_scattered_free_pages_are_all_found() -> None:
    free = FreePages(9)
    free.take(9, None)
    for page in (0, 2, 4, 5, 7):
        free.add(page)
    assert free.take(3, 1) == [2, 4, 5]
    assert sorted(free.take(2, None)) == [0, 7]
