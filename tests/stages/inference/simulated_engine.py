"""A model of the engine: pages are dictionaries whose contents name the tokens that they must hold."""

from __future__ import annotations

import random
from collections import Counter

from longcat.stages.inference.pages import PagePool
from longcat.stages.inference.scheduler import Plan, Scheduler
from longcat.stages.inference.sequence import Sequence, Status

# Contents of a position: the model, the tokens up to it, and the tokens after it that it depends on.
Contents = tuple[bytes, tuple[int, ...], tuple[int, ...]]


class SimulatedEngine:
    """Runs the steps of a scheduler; the token after some ids is a function of their sum and of the sequence."""

    def __init__(
        self,
        pages: int = 8,
        page_size: int = 4,
        step_tokens: int = 8,
        max_sequences: int = 4,
        lookahead: int = 0,
        prefix_cache: bool = True,
        accepted: float = 0.5,
    ) -> None:
        self.pool = PagePool(pages, page_size, b"model 0", lookahead)
        self.scheduler = Scheduler(self.pool, step_tokens, max_sequences, prefix_cache=prefix_cache)
        self.store: dict[tuple[int, int], Contents] = {}
        self.sequences: list[Sequence] = []
        self.steps = 0
        self.drafts = 0
        self._seeds: dict[Sequence, int] = {}
        self._random = random.Random(0)
        self._accepted = accepted

    def start(self, ids: list[int], new_tokens: int = 2, group: str = "", key: str = "", **fields: int) -> Sequence:
        sequence = Sequence(list(ids), len(ids) + new_tokens, group or f"group {len(self.sequences)}", key, **fields)
        self.scheduler.add(sequence)
        self.sequences.append(sequence)
        self._seeds[sequence] = 0
        return sequence

    def fork(self, parent: Sequence, new_tokens: int = 2) -> Sequence:
        ids = parent.ids[: parent.prompt_length]
        child = Sequence(ids, len(ids) + new_tokens, parent.group, parent.key)
        self.scheduler.fork(parent, child)
        self.sequences.append(child)
        self._seeds[child] = len(self._seeds)
        return child

    def cancel(self, sequence: Sequence) -> None:
        self.scheduler.remove(sequence)
        self.sequences.remove(sequence)

    def step(self, leaving: Sequence | None = None) -> Plan:
        """One step; `leaving` is cancelled while the model computes."""
        plan = self.scheduler.schedule()
        self.steps += 1
        self._check_plan(plan)
        for source, destination in plan.copies:
            for offset in range(self.pool.page_size):
                self.store.pop((destination, offset), None)
                if (source, offset) in self.store:
                    self.store[destination, offset] = self.store[source, offset]
        writes = [write for item in plan.items for write in self._write(*item)]
        assert len(writes) == len(set(writes)), "two sequences write to one place"
        if leaving is not None:
            self.cancel(leaving)
        for sequence, first, length in plan.items:
            if sequence is leaving:
                self.scheduler.advance(sequence, first + length)
                continue
            self._check_contents(sequence, first + length)
            self._accept(sequence, first, length)
        self.check()
        return plan

    def run(self, limit: int = 2000) -> None:
        """Run until every sequence has ended."""
        before = self.steps
        while self.sequences:
            assert self.step().items, "a step without progress"
            assert self.steps - before < limit, "starvation"
        assert self.pool.used_pages == 0
        assert not self.scheduler.running and not self.scheduler.waiting

    def check(self) -> None:
        """References equal uses, and every page is in one place."""
        used = Counter(page for sequence in self.sequences for page in sequence.pages)
        assert all(self.pool.uses(page) == used[page] for page in range(self.pool.pages))
        free = set(self.pool._free)
        cached = set(self.pool._cached)
        assert len(free) == self.pool.free_pages and not free & cached and not (free | cached) & set(used)
        assert len(free) + len(cached) + len(used) == self.pool.pages
        assert all(self.pool._page_of[digest] == page for page, digest in self.pool._digest_of.items())
        assert set(self.pool._digest_of) <= cached | set(used) and cached <= set(self.pool._digest_of)
        self._check_eviction_order()
        running = self.scheduler.running
        assert {id(one) for one in self.sequences if one.pages} == {id(one) for one in running}
        assert sorted([one.slot for one in running] + self.scheduler._slots) == list(
            range(self.scheduler.max_sequences)
        )
        assert len(running) + len(self.scheduler.waiting) == len(self.sequences)

    def _check_eviction_order(self) -> None:
        """No page is evicted before pages that continue it."""
        size = self.pool.page_size
        prefixes = [self.store[page, size - 1] for page in self.pool._cached]
        for place, (root, prefix, after) in enumerate(prefixes):
            known = (prefix + after)[: len(prefix) - size + self.pool.lookahead]
            parent = (root, known[: len(prefix) - size], known[len(prefix) - size :])
            assert parent not in prefixes[:place]

    def _check_plan(self, plan: Plan) -> None:
        assert sum(item.length for item in plan.items) <= self.scheduler.step_tokens
        assert len({id(item.sequence) for item in plan.items}) == len(plan.items)
        for sequence, first, length in plan.items:
            assert sequence.status is Status.RUNNING and first == sequence.computed and length >= 1
            assert first + length <= len(sequence.ids) + len(sequence.drafts) <= sequence.max_length
            assert len(sequence.pages) * self.pool.page_size >= first + length

    def _place(self, sequence: Sequence, position: int) -> tuple[int, int]:
        return sequence.pages[position // self.pool.page_size], position % self.pool.page_size

    def _contents(self, tokens: list[int], position: int) -> Contents:
        after = tokens[position + 1 : position + 1 + self.pool.lookahead]
        return self.pool.root, tuple(tokens[: position + 1]), tuple(after)

    def _write(self, sequence: Sequence, first: int, length: int) -> list[tuple[int, int]]:
        tokens = sequence.ids + sequence.drafts
        places = []
        for position in range(max(0, first - self.pool.lookahead), first + length):
            place = self._place(sequence, position)
            if position >= first:
                assert self.pool.uses(place[0]) == 1, "a shared page is written"
                assert place[0] not in self.pool._digest_of, "a page with known contents is written"
                places.append(place)
            self.store[place] = self._contents(tokens, position)
        return places

    def _check_contents(self, sequence: Sequence, end: int) -> None:
        tokens = sequence.ids + sequence.drafts
        for position in range(end - self.pool.lookahead):
            assert self.store[self._place(sequence, position)] == self._contents(tokens, position)

    def _accept(self, sequence: Sequence, first: int, length: int) -> None:
        known = len(sequence.ids)
        if first + length < known:
            self.scheduler.advance(sequence, first + length)
            return
        computed = first + length
        for index in range(known, first + length):
            right = self._next(sequence, sequence.ids)
            sequence.ids.append(right)
            if sequence.drafts[index - known] != right:
                computed = index
                break
        else:
            if len(sequence.ids) < sequence.max_length:
                sequence.ids.append(self._next(sequence, sequence.ids))
        self.drafts += computed - known if computed > known else 0
        self.scheduler.advance(sequence, min(computed, len(sequence.ids)))
        if len(sequence.ids) == sequence.max_length:
            self.cancel(sequence)
        elif self._accepted:
            sequence.drafts = self._propose(sequence)

    def _next(self, sequence: Sequence, ids: list[int]) -> int:
        return (sum(ids) + self._seeds[sequence]) % 7

    def _propose(self, sequence: Sequence) -> list[int]:
        drafts: list[int] = []
        for _ in range(self._random.randrange(4)):
            right = self._next(sequence, sequence.ids + drafts)
            drafts.append(right if self._random.random() < self._accepted else 99)
        return drafts
