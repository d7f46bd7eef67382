"""Which tokens the next step of the model computes, and in which pages.

Pure bookkeeping: no tensors, no clock, no threads. One step is
`plan = schedule()`, the copies and the tokens of the plan, and for each of its items the new ids of the sequence and
`advance`.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from longcat.pipeline.errors import InputError
from longcat.stages.inference.pages import PagePool
from longcat.stages.inference.sequence import Sequence, Status
from longcat.stages.inference.shares import Claim, FairShares
from longcat.stages.inference.waiting_queue import RunningCounts, WaitingQueue, group_path, key_path

# Part of a step that decoding leaves to the prompts that are being read.
PREFILL_SHARE = 0.25


class PlanItem(NamedTuple):
    """The tokens at positions `first` .. `first + length - 1` of a sequence, see `Sequence.tokens`."""

    sequence: Sequence
    first: int
    length: int


@dataclass
class Plan:
    """One step.

    Args:
        items: what is computed, sequences admitted earlier first.
        copies: pages (source, destination) to be copied before the step, in this order or all reads before all writes.
        admitted: sequences that were given pages; `Sequence.cached` of new ones is set.
        preempted: sequences that lost their pages; they keep their ids.
    """

    items: list[PlanItem] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Admits sequences, splits the tokens of a step between them, and preempts when there are no pages.

    Every sequence ends: the one that was admitted first is never preempted, and shares go round.

    Args:
        pool: pages of the cache; used by this scheduler alone.
        step_tokens: most tokens of one step, at least 2: one for decoding and one for a prompt.
        max_sequences: most sequences with pages.
        prefix_cache: whether prompts use the pages of earlier sequences.
        dense: positions of a sequence after its prompt, from this one on, depend on where the prompt ended
            (`model.attention.offload`): their pages are not known to others, and computed again after preemption.
    """

    def __init__(
        self,
        pool: PagePool,
        step_tokens: int,
        max_sequences: int,
        *,
        prefix_cache: bool = True,
        dense: int | None = None,
    ) -> None:
        if step_tokens < 2 or max_sequences < 1:
            raise ValueError(f"{step_tokens} tokens in a step and {max_sequences} sequences")
        self.pool = pool
        self.step_tokens = step_tokens
        self.max_sequences = max_sequences
        self.prefix_cache = prefix_cache
        self._dense = dense
        self.preemptions = 0
        self.running: list[Sequence] = []  # the first admitted first
        self._preempted: list[Sequence] = []  # in the same order
        self._queue = WaitingQueue()
        self._forked: dict[Sequence, None] = {}  # wait for the prompt of their parent
        self._counts = RunningCounts()
        self._slots = list(range(max_sequences))[::-1]
        self._arrivals = 0
        self._admissions = 0
        self._decoding_shares = FairShares()
        self._prefill_shares = FairShares()
        self._draft_shares = FairShares()

    @property
    def waiting(self) -> list[Sequence]:
        """All sequences without pages."""
        return [*self._preempted, *self._queue, *self._forked]

    @property
    def free_pages(self) -> int:
        """Pages that can be taken, cached ones included."""
        return self.pool.available

    def add(self, sequence: Sequence) -> None:
        """Queue a new sequence.

        Raises:
            InputError: it may need more pages than there are.
        """
        self._receive(sequence)
        self._queue.add(sequence)

    def fork(self, parent: Sequence, child: Sequence) -> None:
        """Queue `child`, whose ids are the first of `parent`'s; it shares their pages once they are computed.

        It computes its last id itself, since it needs the logits. If the parent ends first, it is computed like others.

        Raises:
            InputError: see `add`.
        """
        if child.ids != parent.ids[: len(child.ids)]:
            raise ValueError("the ids of a fork must be the first of its parent's")
        self._receive(child)
        child.parent = parent
        if parent.status is Status.FINISHED or parent.computed >= child.reusable:
            self._queue.add(child)
        else:
            parent.forks.append(child)
            self._forked[child] = None

    def remove(self, sequence: Sequence) -> None:
        """Drop a sequence in any state, finished or cancelled; without effect if it was removed before."""
        if sequence.status is Status.RUNNING:
            self._stop(sequence)
        elif sequence.status is Status.PREEMPTED:
            self._preempted.remove(sequence)
        elif sequence in self._forked:
            del self._forked[sequence]
            if sequence.parent is not None:
                sequence.parent.forks.remove(sequence)
        elif sequence.status is Status.WAITING:
            self._queue.remove(sequence)
        sequence.status = Status.FINISHED
        sequence.parent = None
        self._queue_forks(sequence, sequence.forks)

    def schedule(self) -> Plan:
        """The next step. Items may be missing only if no sequence has ids to compute."""
        plan = Plan()
        self._admit(plan)
        self._make_way(plan)
        for sequence, count in self._split_step():
            if sequence.status is Status.RUNNING and self._make_room(sequence, count, plan):
                plan.items.append(PlanItem(sequence, sequence.computed, count))
        self._add_drafts(plan)
        return plan

    def advance(self, sequence: Sequence, computed: int) -> None:
        """Note that positions below `computed` are in the cache, and that these ids are final; drops the drafts.

        Call it when the sampled token and the accepted drafts have been appended to `ids`. Without effect if the
        sequence no longer runs.
        """
        if sequence.status is not Status.RUNNING:
            return
        if not sequence.computed <= computed <= min(len(sequence.ids), len(sequence.pages) * self.pool.page_size):
            raise ValueError(f"{computed} positions of {len(sequence.ids)} ids, {sequence.computed} before")
        sequence.computed = computed
        sequence.drafts.clear()
        if self.prefix_cache:
            self._register(sequence)
        self._queue_forks(sequence, [child for child in sequence.forks if computed >= child.reusable])

    def swap(self, root: bytes) -> None:
        """Preempt all sequences and forget all pages: the model is replaced by one with another `root`."""
        for sequence in reversed(list(self.running)):
            self._preempt(sequence)
        self.pool.clear(root)
        for sequence in self.waiting:
            sequence.chain.clear()

    # Queues

    def _receive(self, sequence: Sequence) -> None:
        needed = self.pool.pages_for(sequence.max_length)
        if needed > self.pool.pages:
            size = self.pool.page_size
            raise InputError(
                f"up to {sequence.max_length} tokens need {needed} pages of {size} tokens, "
                f"and the cache has {self.pool.pages} ({self.pool.pages * size} tokens)",
                where="prompt",
                hint="ask for fewer tokens, or give the server a larger cache",
            )
        sequence.arrival = self._arrivals
        self._arrivals += 1

    def _queue_forks(self, parent: Sequence, children: Iterable[Sequence]) -> None:
        for child in list(children):
            parent.forks.remove(child)
            del self._forked[child]
            self._queue.add(child)

    # Admission and preemption

    def _next(self) -> Sequence | None:
        """Clients and requests without a place come first, then those that were preempted."""
        first = self._queue.first(self._counts)
        candidates = self._preempted if first is None else [*self._preempted, first]
        return min(candidates, key=lambda one: [bool(places) for places in self._counts.places(one)], default=None)

    def _admit(self, plan: Plan) -> None:
        while (sequence := self._next()) is not None:
            if len(self.running) == self.max_sequences or not self._place(sequence):
                return
            plan.admitted.append(sequence)

    def _make_way(self, plan: Plan) -> None:
        """Give a client or a request without a place those of the latest sequences of others that have several."""
        sequence = self._next()
        if sequence is None or all(self._counts.places(sequence)):
            return
        victims = self._spare(sequence)
        for victim in victims:
            self._preempt(victim)
        plan.preempted += victims
        if victims and self._place(sequence):
            plan.admitted.append(sequence)

    def _spare(self, sequence: Sequence) -> list[Sequence]:
        """The latest sequences that can be spared and free pages enough for `sequence`, else none."""
        needed = self.pool.pages_for(len(sequence.ids)) + 1 + len(self.running) - self.pool.available
        path_of = group_path if self._counts[key_path(sequence)] else key_path
        left = RunningCounts()
        for other in self.running:
            left.add(other, 1)
        victims: list[Sequence] = []
        for other in reversed(self.running):
            if left[path_of(other)] > 1:
                victims.append(other)
                left.add(other, -1)
                needed -= sum(self.pool.uses(page) == 1 for page in other.pages)
                if needed <= 0:
                    return victims
        return []

    def _place(self, sequence: Sequence) -> bool:
        """Give a sequence the pages of all its ids, if every running sequence can have one more page after that."""
        pool = self.pool
        pages, positions = self._known(sequence)
        fresh = pool.pages_for(len(sequence.ids)) - len(pages)
        copied = 1 if positions % pool.page_size else 0
        if fresh + copied + pool.cached_among(pages) + len(self.running) > pool.available:
            return False
        pool.share(pages)
        sequence.pages = pages + pool.take(fresh, pages[-1] if pages else None)
        sequence.computed = positions
        sequence.registered = positions // pool.page_size
        self._start(sequence, positions)
        return True

    def _known(self, sequence: Sequence) -> tuple[list[int], int]:
        """Pages that hold the first positions of a sequence, and how many positions."""
        self.pool.extend_chain(sequence.chain, sequence.ids)
        parent = sequence.parent
        if parent is not None and parent.status is Status.RUNNING:
            # What depends on tokens after the ids differs between forks.
            positions = min(parent.computed, self._reusable(sequence), max(0, len(sequence.ids) - self.pool.lookahead))
            return parent.pages[: self.pool.pages_for(positions)], positions
        pages = self.pool.match(sequence.chain, self._reusable(sequence))
        return pages, len(pages) * self.pool.page_size

    def _reusable(self, sequence: Sequence) -> int:
        """Most positions that may come from known pages. The last of a prompt is computed: what follows needs it."""
        if self._dense is None:
            return sequence.reusable
        return min(sequence.reusable, max(sequence.prompt_length - 1, self._dense))

    def _start(self, sequence: Sequence, positions: int) -> None:
        if sequence.admission < 0:
            sequence.admission = self._admissions
            self._admissions += 1
            sequence.cached = positions
            self.pool.queried_tokens += len(sequence.ids)
            self.pool.hit_tokens += positions
        if sequence.status is Status.PREEMPTED:
            self._preempted.remove(sequence)
        else:
            self._queue.remove(sequence)
        sequence.parent = None
        sequence.slot = self._slots.pop()
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=lambda other: other.admission)
        self._counts.add(sequence, 1)

    def _preempt(self, sequence: Sequence) -> None:
        self._stop(sequence)
        sequence.status = Status.PREEMPTED
        insort(self._preempted, sequence, key=lambda other: other.admission)
        self.preemptions += 1

    def _stop(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._counts.add(sequence, -1)
        self._slots.append(sequence.slot)
        self.pool.release(sequence.pages, sequence.chain)
        sequence.pages = []
        sequence.slot = -1
        sequence.computed = sequence.registered = 0
        sequence.drafts.clear()

    # The step

    def _split_step(self) -> list[tuple[Sequence, int]]:
        """Sequences and how many tokens of each the step computes, without drafts; sequences admitted earlier first."""
        decoding = [sequence for sequence in self.running if sequence.remaining == 1]
        reading = [sequence for sequence in self.running if sequence.remaining > 1]
        kept = min(sum(one.remaining for one in reading), max(1, int(self.step_tokens * PREFILL_SHARE)))
        counts = self._split(self._decoding_shares, self.step_tokens - kept, decoding, [1] * len(decoding))
        budget = self.step_tokens - sum(counts.values())
        counts |= self._split(self._prefill_shares, budget, reading, [one.remaining for one in reading])
        return [(sequence, counts[sequence]) for sequence in self.running if counts.get(sequence)]

    @staticmethod
    def _split(shares: FairShares, budget: int, sequences: list[Sequence], demands: list[int]) -> dict[Sequence, int]:
        claims = [
            Claim((sequence.key, sequence.group, sequence), demand)
            for sequence, demand in zip(sequences, demands, strict=True)
        ]
        return dict(zip(sequences, shares.split(budget, claims), strict=True))

    def _add_drafts(self, plan: Plan) -> None:
        """Spend what the step has left, in tokens and pages, on drafts; the others are dropped."""
        budget = self.step_tokens - sum(item.length for item in plan.items)
        ready = [
            item for item in plan.items if item.sequence.drafts and item.first + item.length == len(item.sequence.ids)
        ]
        sequences = [item.sequence for item in ready]
        # The last token of a sequence follows its last draft.
        demands = [min(len(one.drafts), max(0, one.max_length - len(one.ids) - 1)) for one in sequences]
        given = self._split(self._draft_shares, budget, sequences, demands)
        for index, (sequence, first, length) in enumerate(plan.items):
            if sequence.drafts:
                drafts = self._claim_drafts(sequence, length, given.get(sequence, 0), plan)
                del sequence.drafts[drafts:]
                plan.items[index] = PlanItem(sequence, first, length + drafts)

    def _claim_drafts(self, sequence: Sequence, length: int, drafts: int, plan: Plan) -> int:
        """Give a sequence the pages of up to `drafts` drafts after `length` ids, without preemption; how many."""
        while drafts and self._needed(sequence, length + drafts) > self.pool.available:
            drafts -= 1
        self._claim(sequence, length + drafts, plan)
        return drafts

    # Pages of a sequence

    def _make_room(self, sequence: Sequence, count: int, plan: Plan) -> bool:
        """Give a sequence the pages of its next `count` positions; False if it was the one to be preempted for them."""
        while self._needed(sequence, count) > self.pool.available:
            latest = self.running[-1]
            self._preempt(latest)
            plan.preempted.append(latest)
            if latest is sequence:
                return False
        self._claim(sequence, count, plan)
        return True

    def _written(self, sequence: Sequence, count: int) -> range:
        """Indices of the pages that the next `count` positions lie in."""
        return range(sequence.computed // self.pool.page_size, self.pool.pages_for(sequence.computed + count))

    def _needed(self, sequence: Sequence, count: int) -> int:
        """How many pages must be taken before the next `count` positions are written: new ones and copies."""
        own = len(sequence.pages)
        return sum(
            index >= own or self.pool.uses(sequence.pages[index]) > 1 for index in self._written(sequence, count)
        )

    def _claim(self, sequence: Sequence, count: int, plan: Plan) -> None:
        pages, pool = sequence.pages, self.pool
        written = self._written(sequence, count)
        for index in written[: max(0, len(pages) - written.start)]:
            if pool.uses(pages[index]) > 1:
                (copy,) = pool.take(1, pages[index])
                plan.copies.append((pages[index], copy))
                pool.release([pages[index]], ())
                pages[index] = copy
            pool.forget(pages[index])
        if written.stop > len(pages):
            pages += pool.take(written.stop - len(pages), pages[-1])

    def _register(self, sequence: Sequence) -> None:
        known = sequence.computed
        if self._dense is not None:
            known = min(known, max(sequence.prompt_length, self._dense))
        full = max(0, known - self.pool.lookahead) // self.pool.page_size
        self.pool.extend_chain(sequence.chain, sequence.ids)
        for index in range(sequence.registered, full):
            self.pool.register(sequence.pages[index], sequence.chain[index])
        sequence.registered = max(sequence.registered, full)
