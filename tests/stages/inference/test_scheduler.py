"""The scheduler, rule by rule."""

from __future__ import annotations

import pytest

from longcat.pipeline.errors import InputError
from longcat.stages.inference.scheduler import Plan
from longcat.stages.inference.sequence import Sequence, Status
from tests.stages.inference.simulated_engine import SimulatedEngine


def lengths(plan: Plan) -> dict[int, int]:
    return {id(item.sequence): item.length for item in plan.items}


def given(plan: Plan, *sequences: Sequence) -> list[int]:
    return [lengths(plan).get(id(sequence), 0) for sequence in sequences]


def prompt(length: int, first: int = 1) -> list[int]:
    return [first] + [2] * (length - 1)


def test_a_long_prompt_is_read_in_pieces_and_then_decoded() -> None:
    engine = SimulatedEngine(pages=16, step_tokens=8, accepted=0)
    sequence = engine.start(prompt(20), new_tokens=3)
    assert [given(engine.step(), sequence)[0] for _ in range(5)] == [8, 8, 4, 1, 1]
    assert sequence.status is Status.FINISHED and engine.pool.used_pages == 0


def test_decoding_goes_on_while_a_prompt_is_read_and_both_have_their_part() -> None:
    engine = SimulatedEngine(pages=64, step_tokens=8, max_sequences=20, accepted=0)
    short = [engine.start(prompt(1, index), new_tokens=30) for index in range(3)]
    engine.step()
    long = engine.start(prompt(40))
    assert given(engine.step(), *short, long) == [1, 1, 1, 5]


def test_decoding_beyond_the_budget_goes_round_and_leaves_a_prompt_its_share() -> None:
    engine = SimulatedEngine(pages=64, step_tokens=8, max_sequences=20, accepted=0)
    short = [engine.start(prompt(1, index), new_tokens=30) for index in range(12)]
    for _ in range(2):
        engine.step()
    long = engine.start(prompt(40))
    counts = [given(engine.step(), *short, long) for _ in range(4)]
    assert [count[-1] for count in counts] == [2, 2, 2, 2]
    totals = [sum(count) for count in zip(*[count[:-1] for count in counts], strict=True)]
    assert totals == [2] * 12


def test_short_prompts_pass_beside_a_long_one() -> None:
    engine = SimulatedEngine(pages=1100, step_tokens=64, max_sequences=8, accepted=0)
    long = engine.start(prompt(4000), new_tokens=1)
    engine.step()
    short = [engine.start(prompt(40, 10 + index), new_tokens=1) for index in range(7)]
    for _ in range(6):
        engine.step()
    assert all(sequence.status is Status.FINISHED for sequence in short)
    assert long.computed < 400


def test_a_request_of_many_prompts_does_not_hold_up_a_single_one() -> None:
    engine = SimulatedEngine(pages=400, step_tokens=16, max_sequences=16, accepted=0)
    many = [engine.start(prompt(20, index), group="many", new_tokens=40) for index in range(128)]
    for _ in range(20):
        engine.step()
    single = engine.start(prompt(16, 500), new_tokens=4)
    steps = 0
    while single.status is not Status.FINISHED:
        engine.step()
        steps += 1
    assert steps <= 7
    assert sum(sequence.status is Status.FINISHED for sequence in many) == 0
    engine.run()


def test_clients_have_equal_shares_of_prefill() -> None:
    engine = SimulatedEngine(pages=100, step_tokens=12, max_sequences=8)
    one = [engine.start(prompt(40, index), group=str(index), key="one") for index in range(3)]
    other = engine.start(prompt(40, 9), key="other")
    assert given(engine.step(), *one, other) == [2, 2, 2, 6]


def test_admission_prefers_clients_and_requests_without_a_place() -> None:
    engine = SimulatedEngine(pages=100, step_tokens=12, max_sequences=3)
    busy = [engine.start(prompt(4, index), group="a", key="one") for index in range(5)]
    second = engine.start(prompt(4, 20), group="b", key="one")
    other = engine.start(prompt(4, 21), key="other")
    assert engine.step().admitted == [busy[0], other, second]


def test_a_new_client_takes_the_place_of_one_of_several_sequences() -> None:
    engine = SimulatedEngine(pages=100, max_sequences=2, accepted=0)
    busy = [engine.start(prompt(4, index), group="a", new_tokens=20) for index in range(2)]
    for _ in range(3):
        engine.step()
    single = engine.start(prompt(4, 20))
    plan = engine.step()
    assert (plan.preempted, plan.admitted) == ([busy[1]], [single])
    third = engine.start(prompt(4, 30))  # every request has one place
    assert not engine.step().preempted and third.status is Status.WAITING
    engine.run()


def test_drafts_get_what_is_left() -> None:
    engine = SimulatedEngine(pages=64, step_tokens=8, accepted=0)
    one, other = engine.start(prompt(1), new_tokens=30), engine.start(prompt(1, 5), new_tokens=30)
    engine.step()
    one.drafts, other.drafts = [99] * 9, [99] * 9
    assert given(engine.step(), one, other) == [4, 4]
    engine.start(prompt(5, 7))
    one.drafts, other.drafts = [99] * 9, [99] * 9
    assert sorted(given(engine.step(), one, other)) == [1, 2]


def test_no_draft_is_verified_beyond_the_end_of_a_sequence() -> None:
    engine = SimulatedEngine(pages=64, step_tokens=8, accepted=0)
    sequence = engine.start(prompt(1), new_tokens=3)
    engine.step()
    sequence.drafts = [99] * 5
    assert given(engine.step(), sequence) == [2]


def test_drafts_do_not_preempt() -> None:
    engine = SimulatedEngine(pages=4, page_size=4, step_tokens=8, accepted=0)
    one, other = engine.start(prompt(3), new_tokens=9), engine.start(prompt(3, 5), new_tokens=9)
    for _ in range(2):
        engine.step()
    one.drafts, other.drafts = [99] * 3, [99] * 3
    plan = engine.step()
    assert given(plan, one, other) == [4, 4] and not plan.preempted
    one.drafts, other.drafts = [99] * 4, [99] * 4
    plan = engine.step()
    assert given(plan, one, other) == [3, 3] and not plan.preempted
    engine.run()


def test_without_pages_the_latest_sequence_is_preempted_and_comes_back_first() -> None:
    engine = SimulatedEngine(pages=4, page_size=4, accepted=0)
    first, second = engine.start(prompt(4), new_tokens=10), engine.start(prompt(4, 5), new_tokens=10)
    late = None
    while not (plan := engine.step()).preempted:
        pass
    assert plan.preempted == [second] and second.status is Status.PREEMPTED
    kept = list(second.ids)
    assert len(kept) > 4
    late = engine.start(prompt(4, 7), new_tokens=1)
    admitted = []
    while second.status is not Status.FINISHED:
        admitted += engine.step().admitted
    assert admitted[0] is second and second.ids[: len(kept)] == kept
    assert engine.scheduler.preemptions == 1
    engine.run()
    assert first.status is late.status is Status.FINISHED


def test_admission_leaves_every_running_sequence_a_page_to_grow() -> None:
    engine = SimulatedEngine(pages=4, page_size=4, step_tokens=20, accepted=0)
    engine.start(prompt(7), new_tokens=2)
    second = engine.start(prompt(7, 5), new_tokens=2)
    assert not engine.step().copies and second.status is Status.WAITING
    engine.run()
    assert engine.scheduler.preemptions == 0


def test_a_sequence_that_never_fits_is_refused_with_the_numbers() -> None:
    engine = SimulatedEngine(pages=4, page_size=4)
    with pytest.raises(InputError, match=r"up to 17 tokens need 5 pages of 4 tokens, and the cache has 4 \(16 tokens"):
        engine.start(prompt(10), new_tokens=7)
    assert not engine.scheduler.waiting
    engine.start(prompt(10), new_tokens=6)
    engine.run()


def test_a_second_turn_computes_only_what_is_new() -> None:
    engine = SimulatedEngine(pages=16)
    first = engine.start(prompt(10), new_tokens=4)
    engine.run()
    second = engine.start([*first.ids, 1, 2, 3])
    assert engine.step().items[0][1:] == (12, 5)
    assert second.cached == 12
    assert (engine.pool.queried_tokens, engine.pool.hit_tokens) == (27, 12)


def test_generated_tokens_found_after_preemption_are_not_computed_again() -> None:
    engine = SimulatedEngine(pages=16, max_sequences=2, accepted=0)
    busy = [engine.start(prompt(8, index), group="a", new_tokens=20) for index in range(2)]
    for _ in range(6):
        engine.step()
    engine.start(prompt(4, 20), new_tokens=1)
    engine.step()
    assert busy[1].status is Status.PREEMPTED
    plan = engine.step()
    assert plan.admitted == [busy[1]] and given(plan, busy[1]) == [len(busy[1].ids) - 1 - 12]


def test_nothing_below_the_reuse_limit_is_computed_and_everything_else_is() -> None:
    engine = SimulatedEngine(pages=16, step_tokens=20)
    engine.start(prompt(12))
    engine.run()
    assert engine.start(prompt(12), reuse_limit=0) and engine.step().items[0].first == 0
    engine.run()
    assert engine.start(prompt(12), reuse_limit=7) and engine.step().items[0].first == 4


def test_without_a_prefix_cache_nothing_is_kept() -> None:
    engine = SimulatedEngine(pages=16, prefix_cache=False)
    for _ in range(2):
        engine.start(prompt(12))
        assert engine.step().items[0].first == 0
        engine.run()
    assert engine.pool.cached_pages == 0


def test_forks_wait_for_the_prompt_and_share_its_pages() -> None:
    engine = SimulatedEngine(pages=16, max_sequences=8, accepted=0)
    parent = engine.start(prompt(14), new_tokens=5)
    children = [engine.fork(parent, new_tokens=5) for _ in range(2)]
    assert engine.step().admitted == [parent] and len(engine.scheduler.waiting) == 2
    engine.step()
    plan = engine.step()
    assert plan.admitted == children and given(plan, parent, *children) == [1, 1, 1]
    assert [item.first for item in plan.items] == [14, 13, 13]
    # Three full pages are shared; of the fourth, the last writer keeps the original.
    assert len(plan.copies) == 2 and engine.pool.used_pages == 3 + 3
    assert all(child.pages[:3] == parent.pages[:3] for child in children)
    engine.run()
    assert len({tuple(one.ids) for one in (parent, *children)}) == 3


def test_forks_of_a_sequence_that_ends_first_are_computed_on_their_own() -> None:
    engine = SimulatedEngine(pages=16, max_sequences=1)
    parent = engine.start(prompt(14))
    children = [engine.fork(parent) for _ in range(2)]
    engine.cancel(children[0])
    engine.step()
    engine.cancel(parent)
    assert engine.step().admitted == [children[1]]
    assert children[1].cached == 8
    assert engine.fork(parent) and len(engine.scheduler.waiting) == 1
    engine.run()


def test_a_full_page_that_a_fork_writes_again_is_known_afterwards() -> None:
    engine = SimulatedEngine(pages=16, step_tokens=2, accepted=0)
    parent = engine.start(prompt(8), new_tokens=5)
    children = [engine.fork(parent, new_tokens=5) for _ in range(3)]
    while engine.scheduler.waiting:
        engine.step()
    left = next(child for child in children if child.computed == 7)
    for sequence in (parent, *children):
        if sequence is not left:
            engine.cancel(sequence)
    assert not engine.step().copies
    late = engine.start(prompt(9))
    engine.step()
    assert late.pages[:2] == left.pages[:2] and late.cached == 8


def test_forks_share_nothing_that_depends_on_their_own_tokens() -> None:
    engine = SimulatedEngine(pages=32, page_size=2, step_tokens=20, max_sequences=8, lookahead=2, accepted=0)
    parent = engine.start(prompt(9), new_tokens=6)
    child = engine.fork(parent, new_tokens=6)
    engine.step()
    assert [item.first for item in engine.step().items] == [9, 7] and child.cached == 7
    engine.run()


def test_a_fork_of_other_ids_is_refused() -> None:
    engine = SimulatedEngine()
    parent = engine.start(prompt(4))
    with pytest.raises(ValueError, match="the first of its parent's"):
        engine.scheduler.fork(parent, Sequence(prompt(4, 9), 5, "group"))


def test_a_swap_of_the_model_recomputes_everything() -> None:
    engine = SimulatedEngine(pages=32, max_sequences=2)
    engine.start(prompt(12), new_tokens=1)
    engine.run()
    sequences = [engine.start(prompt(12, index), new_tokens=8) for index in range(3)]
    engine.step()
    engine.scheduler.swap(b"model 1")
    engine.check()
    assert engine.pool.cached_pages == 0
    plan = engine.step()
    assert [item.first for item in plan.items] == [0, 0] and plan.admitted == sequences[:2]
    engine.run()
    # What was computed after the swap by sequences from before it is known to later ones.
    assert engine.start([*sequences[0].ids, 1]) and engine.step().items[0].first == 16


def test_advance_of_a_removed_sequence_has_no_effect_and_wrong_counts_are_refused() -> None:
    engine = SimulatedEngine()
    sequence = engine.start(prompt(4))
    engine.scheduler.schedule()
    with pytest.raises(ValueError, match="5 positions of 4 ids"):
        engine.scheduler.advance(sequence, 5)
    engine.scheduler.remove(sequence)
    engine.scheduler.remove(sequence)
    engine.scheduler.advance(sequence, 4)
    assert sequence.computed == 0 and engine.pool.used_pages == 0


@pytest.mark.parametrize("new_keys", [False, True])
def test_endless_arrivals_starve_nobody(new_keys: bool) -> None:
    engine = SimulatedEngine(pages=16, page_size=4, step_tokens=6, max_sequences=4)
    many = [engine.start(prompt(18, index), new_tokens=20, group="many") for index in range(5)]
    for step in range(700):
        for index in range(2):
            if len(engine.sequences) < 40:
                engine.start(prompt(6, 10 * step + index), new_tokens=6, key=f"{step}" if new_keys else "")
        engine.step()
    assert all(sequence.status is Status.FINISHED for sequence in many)
    engine.run()
