"""Any order of requests, forks, cancellations, steps and swaps leaves scheduler, pages and contents consistent."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.stages.inference.simulated_engine import SimulatedEngine

ids = st.lists(st.integers(0, 1), min_size=1, max_size=18)


class SchedulerStates(RuleBasedStateMachine):
    @initialize(
        pages=st.integers(6, 24),
        page_size=st.integers(1, 5),
        step_tokens=st.integers(2, 20),
        max_sequences=st.integers(1, 6),
        lookahead=st.integers(0, 2),
        prefix_cache=st.booleans(),
        accepted=st.sampled_from([0, 0.7]),
    )
    def begin(self, **fields: int) -> None:
        self.engine = SimulatedEngine(**fields)
        self.capacity = self.engine.pool.pages * self.engine.pool.page_size
        self.roots = 0

    def pick(self, number: int) -> int:
        return number % len(self.engine.sequences)

    @rule(
        ids=ids,
        new=st.integers(0, 12),
        group=st.integers(0, 2),
        key=st.integers(0, 1),
        limit=st.none() | st.integers(0, 12),
    )
    def request(self, ids: list[int], new: int, group: int, key: int, limit: int | None) -> None:
        ids = ids[: self.capacity]
        new = min(new, self.capacity - len(ids))
        self.engine.start(ids, new, str(group), str(key), reuse_limit=limit)

    @precondition(lambda self: self.engine.sequences)
    @rule(number=st.integers(0, 99), new=st.integers(0, 12))
    def fork(self, number: int, new: int) -> None:
        parent = self.engine.sequences[self.pick(number)]
        self.engine.fork(parent, min(new, self.capacity - parent.prompt_length))

    @precondition(lambda self: self.engine.sequences)
    @rule(number=st.integers(0, 99))
    def second_turn(self, number: int) -> None:
        earlier = self.engine.sequences[self.pick(number)].ids
        self.engine.start([*earlier, 5][: self.capacity], 0)

    @precondition(lambda self: self.engine.sequences)
    @rule(number=st.integers(0, 99))
    def cancel(self, number: int) -> None:
        self.engine.cancel(self.engine.sequences[self.pick(number)])

    @precondition(lambda self: self.engine.sequences)
    @rule(number=st.integers(0, 99))
    def cancel_during_a_step(self, number: int) -> None:
        self.engine.step(leaving=self.engine.sequences[self.pick(number)])

    @precondition(lambda self: self.engine.sequences)
    @rule(steps=st.integers(1, 5))
    def step(self, steps: int) -> None:
        for _ in range(steps):
            if self.engine.sequences:
                assert self.engine.step().items

    @rule(same=st.booleans())
    def swap(self, same: bool) -> None:
        self.roots += not same
        self.engine.scheduler.swap(b"model %d" % self.roots)

    @invariant()
    def consistent(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.run()


TestSchedulerStates = SchedulerStates.TestCase
TestSchedulerStates.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
