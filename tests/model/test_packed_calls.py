"""Calls of torch in a decode step of a packed model: of a small model they take most of the time."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from longcat.kernels.packed_linear import missing
from longcat.model.packed.choice import AsAsked
from longcat.model.packed.prepare import prepare
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

from .conftest import BuildModel

CACHED, PAGE = 9, 4


class Counted(TorchDispatchMode):
    """Counts the operators that are dispatched."""

    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def calls_of_step(model: LongcatFlash, rows: int) -> int:
    """Calls of a step of one token for each of `rows` sequences with CACHED positions."""
    texts = torch.randint(97, (rows, CACHED + 1), generator=torch.Generator().manual_seed(0)).tolist()
    tables = [range(3 * row, 3 * row + 3) for row in range(rows)]
    cache = model.new_pages(3 * rows, PAGE)
    prompts = [Piece(text[:CACHED], 0, table) for text, table in zip(texts, tables, strict=True)]
    model.step(StepBatch.of(prompts, PAGE), cache)
    tokens = [Piece(text[CACHED:], CACHED, table) for text, table in zip(texts, tables, strict=True)]
    with Counted() as counted:
        model.step(StepBatch.of(tokens, PAGE), cache)
    return counted.calls


# Measured on an AMD EPYC, plus 5 %: other libraries take a few calls more or less a product.
MOST = [("fp32", 1, 365), ("fp32", 8, 585), ("int8", 1, 545), ("int8", 8, 730)]


@pytest.mark.parametrize(("weights", "rows", "most"), MOST)
@torch.inference_mode()
def test_a_decode_step_takes_few_calls(build_model: BuildModel, weights: Any, rows: int, most: int) -> None:
    if missing(weights) is not None:
        pytest.skip(f"this machine has no {weights}")
    model = build_model(moe_topk=3, n_routed_experts=6, zero_expert_num=2)
    prepare(model, weights, chooser=AsAsked())
    assert calls_of_step(model, rows) <= most
