"""Scores of an indexer in every version, and the choice of positions against plain loops."""

from __future__ import annotations

import pytest
import torch

from longcat.kernels.index_scores import ABSENT, Always, index_scores, index_topk
from longcat.kernels.index_scores import choose as choose_module
from longcat.kernels.mla_attention import document_bounds
from longcat.kernels.select import KernelError

every_version = pytest.mark.parametrize("version", ["reference", "cpu", "triton"])


def inputs(batch: int, tokens: int, keys: int, heads: int = 3, width: int = 10) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(tokens + keys)
    shapes = (batch, tokens, heads, width), (batch, keys, width), (batch, tokens, heads)
    q, k, w = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return q, k, w


def score(q_JI: torch.Tensor, k_I: torch.Tensor, w_J: torch.Tensor) -> float:
    return sum(float(w) * max(0.0, float(q @ k_I)) for q, w in zip(q_JI, w_J, strict=True))


def chosen_by_loops(scores: list[float], start: int, at: int, count: int, first: int = 0, last: int = 0) -> list[int]:
    """Positions of one query at `at`, in a document from `start` on, whose scores are given by position."""
    forced = [s for s in range(start, at + 1) if s < start + first or s > at - last]
    rest = sorted((s for s in range(start, at + 1) if s not in forced), key=lambda s: (-scores[s], s))
    taken = sorted(forced + rest[: max(0, count - len(forced))])
    return taken + [ABSENT] * (count - len(taken))


@every_version
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (5, 70, 3, 10), (130, 131, 2, 64), (7, 3, 4, 300), (0, 5, 2, 4)])
def test_scores_equal_plain_loops(version: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", f"index_scores={version}")
    (q,), (k,), (w,) = inputs(1, *sizes)
    found = index_scores(q.float(), k.float(), w.float())
    assert (found.dtype, found.shape) == (torch.float32, sizes[:2])
    exact = torch.einsum("tj,tjs->ts", w, (q @ k.T).clamp(min=0))
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=2e-5 * max(1.0, sizes[3] ** 0.5))
    for t, s in [(0, 0), (sizes[0] - 1, sizes[1] - 1)] if sizes[0] else []:
        assert exact[t, s].item() == pytest.approx(score(q[t], k[s], w[t]))
    half = index_scores(*(x.bfloat16() for x in (q, k, w)))
    assert half.dtype == torch.float32
    assert torch.linalg.vector_norm(half.double() - exact) <= 4e-2 * torch.linalg.vector_norm(exact)


@pytest.mark.parametrize("tile", [1 << 22, 64])
@pytest.mark.parametrize("always", [Always(), Always(2, 3), Always(0, 5)])
@pytest.mark.parametrize(("tokens", "keys"), [(1, 40), (23, 23), (6, 30), (3, 5)])
def test_the_choice_equals_plain_loops(
    tokens: int, keys: int, always: Always, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose_module, "TILE_VALUES", tile)
    q, k, w = inputs(2, tokens, keys)
    found = index_topk(q, k, w, 7, always)
    for row in range(2):
        for t in range(tokens):
            scores = [score(q[row, t], k_I, w[row, t]) for k_I in k[row]]
            assert found[row, t].tolist() == chosen_by_loops(scores, 0, keys - tokens + t, 7, *always)


def test_a_query_chooses_from_its_own_document() -> None:
    q, k, w = inputs(2, 20, 20)
    bounds = document_bounds(torch.tensor([0, 13, 13, 20, 24, 40]), 2, 20, torch.device("cpu"))
    found = index_topk(q, k, w, 6, Always(1, 2), bounds)
    starts = [0] * 13 + [13] * 7, [0] * 4 + [4] * 16
    for row in range(2):
        for t in range(20):
            scores = [score(q[row, t], k_I, w[row, t]) for k_I in k[row]]
            assert found[row, t].tolist() == chosen_by_loops(scores, starts[row][t], t, 6, 1, 2)


def test_rows_have_budgets_of_their_own() -> None:
    """More or fewer positions, but never fewer than those that are always chosen."""
    q, k, w = inputs(3, 12, 30)
    found = index_topk(q, k, w, 8, Always(1, 3), budgets_B=torch.tensor([5, 11, 2]))
    assert found.shape == (3, 12, 11)
    for row, count in enumerate((5, 11, 4)):
        for t in range(12):
            scores = [score(q[row, t], k_I, w[row, t]) for k_I in k[row]]
            expected = chosen_by_loops(scores, 0, 18 + t, count, 1, 3)
            assert found[row, t].tolist() == expected + [ABSENT] * (11 - count)


@pytest.mark.parametrize("values", [2, 50, 1])
def test_ties_go_to_the_lowest_position_also_in_long_rows(values: int) -> None:
    """Rows of few different scores; 400 positions are enough for the first look at groups."""
    scores_NS = torch.randint(values, (9, 400), generator=torch.Generator().manual_seed(values)).double()
    found = choose_module.largest(scores_NS.clone(), 12)
    for scores, positions in zip(scores_NS.tolist(), found.tolist(), strict=True):
        assert positions == sorted(sorted(range(400), key=lambda s: (-scores[s], s))[:12])


def test_long_rows_choose_what_short_ones_would() -> None:
    scores_NS = torch.randn(20, 3001, generator=torch.Generator().manual_seed(0))
    assert torch.equal(choose_module.largest(scores_NS, 30), scores_NS.topk(30, dim=1).indices.sort(1).values)


def test_a_positive_factor_changes_no_choice() -> None:
    """On queries, keys or weights, a power of two so that no rounding differs."""
    q, k, w = inputs(1, 17, 60)
    expected = index_topk(q, k, w, 9, Always(1, 2))
    for scaled in ((4 * q, k, w), (q, 0.5 * k, w), (q, k, 8 * w)):
        assert torch.equal(index_topk(*scaled, 9, Always(1, 2)), expected)


def test_inconsistent_inputs_are_refused() -> None:
    q, k, w = inputs(1, 4, 4)
    with pytest.raises(KernelError, match="3 heads of width 10 for 4 queries need keys of that width"):
        index_scores(q[0], k[0, :, :9], w[0])
    with pytest.raises(KernelError, match="4 queries cannot be the last of 3 keys"):
        index_topk(q, k[:, :3], w, 2)
    with pytest.raises(KernelError, match="5 positions are always chosen, of 4"):
        index_topk(q, k, w, 4, Always(2, 3))
