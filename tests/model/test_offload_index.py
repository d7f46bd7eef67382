"""Parts of an offloaded cache: INT4 vectors, summaries of blocks, greatest scores, options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from longcat.model.attention.offload import int4
from longcat.model.attention.offload.options import SUB_BLOCK, OffloadOptions
from longcat.model.attention.offload.selection import greatest
from longcat.model.attention.offload.summaries import MinMax, make_summaries

WIDTH, BLOCK, PAGES = 40, 16, 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 31, 32, 40, 96])
def test_int4_errors_are_at_most_half_a_scale(channels: int) -> None:
    x = random(50, channels) * 10 ** random(50, 1, seed=1)
    x[7] = 0
    packed = int4.quantize(x)
    assert packed.nbytes == 50 * int4.padded(channels) // 2 + 50 * int4.padded(channels) // int4.GROUP * 2
    found = int4.dequantize(packed, torch.float64)
    assert not found[:, channels:].any()
    for row in range(50):
        for first in range(0, channels, int4.GROUP):
            part = x[row, first : first + int4.GROUP].double()
            scale = float((part.abs().max() / 7).float().bfloat16())
            error = (found[row, first : first + len(part)] - part).abs().max()
            assert error <= scale / 2 * (1 + 1e-6)
            assert packed.scales[row, first // int4.GROUP] == scale


def test_int4_keeps_its_own_values() -> None:
    """All codes, packed twice."""
    codes = torch.arange(-7, 8).repeat(5)[:64].float()
    x = torch.stack((codes * 0.5, codes.flip(0) * 3))
    packed = int4.quantize(x)
    assert torch.equal(int4.dequantize(packed, torch.float32), x)
    again = int4.quantize(int4.dequantize(packed, torch.float32))
    assert torch.equal(again.codes, packed.codes) and torch.equal(again.scales, packed.scales)
    assert torch.equal(int4.dequantize(int4.empty((3,), 40, x.device), torch.float32), torch.zeros(3, 64))


def options_of(**changes: Any) -> OffloadOptions:
    return OffloadOptions(**{"tier": "memory", "block": BLOCK, "resident_blocks": 2} | changes)


@pytest.mark.parametrize("heads", ["sum", "max"])
def test_minmax_bounds_the_scores_of_all_keys(heads: Any) -> None:
    keys_PLW, q_HW = random(PAGES, BLOCK, WIDTH).double(), random(3, WIDTH, seed=2).double()
    summaries = MinMax(PAGES, BLOCK, WIDTH, torch.float64, torch.device("cpu"))
    order = torch.tensor([3, 0, 4, 1])
    summaries.update(order, keys_PLW[order])
    found = summaries.scores(q_HW, order, heads)
    scores_PLH = keys_PLW @ q_HW.t()
    one_PL = scores_PLH.sum(-1) if heads == "sum" else scores_PLH.amax(-1)
    assert (found >= one_PL[order].amax(-1) - 1e-12).all()
    alone = keys_PLW[:, :1].expand(-1, BLOCK, -1)  # of equal keys it is the score
    summaries.update(order, alone[order])
    torch.testing.assert_close(summaries.scores(q_HW, order, heads), one_PL[order, 0])


@pytest.mark.parametrize("score", ["mean", "minmax"])
def test_a_copied_page_has_the_summary_of_its_source(score: Any) -> None:
    summaries = make_summaries(options_of(block_score=score), PAGES, WIDTH, torch.float32, torch.device("cpu"))
    keys_XSW = random(PAGES * BLOCK // summaries.part, summaries.part, WIDTH)
    summaries.update(torch.arange(len(keys_XSW)), keys_XSW)
    summaries.copy(1, 3)
    found = summaries.scores(random(3, WIDTH, seed=2), torch.arange(PAGES), "max")
    assert found[1] == found[3] and len(found.unique()) == PAGES - 1
    dense = PAGES * BLOCK * WIDTH * 4
    assert summaries.nbytes <= (dense / SUB_BLOCK / 4 if score == "mean" else dense / BLOCK * 2)


def test_the_first_of_equal_scores_are_taken() -> None:
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0, float("inf")])
    assert [greatest(scores, count).tolist() for count in (1, 2, 3, 4, 5, 7, 9)] == [
        *([6], [1, 6], [1, 3, 6], [1, 2, 3, 6], [1, 2, 3, 4, 6]),
        *([0, 1, 2, 3, 4, 5, 6],) * 2,
    ]


WRONG: dict[str, dict[str, Any]] = {
    "tier = disk needs a folder": {"tier": "disk"},
    "tier = memory takes no folder": {"folder": Path("/tmp")},
    "token_budget = 16 must exceed block = 16": {"token_budget": 16},
    r"at most block \* resident_blocks = 32": {"token_budget": 33},
    "multiple of 8": {"block": 20},
    "greater than or equal to 2": {"resident_blocks": 1},
    "Extra inputs are not permitted": {"blocks": 4},
    "'mean' or 'minmax'": {"block_score": "max"},
}


@pytest.mark.parametrize("told", WRONG)
def test_wrong_options_are_named(told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        options_of(**WRONG[told])
