"""Attention mass that kinds report as covered by budgets, against plain loops; what the model attends to with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longcat.model.attention.base import SequenceContext
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash

KINDS: dict[str, Any] = {
    "topk": {"kind": "topk", "k": 5},
    "topk by group": {"kind": "topk", "k": 5, "share": "group", "groups": 2},
    "lsa": {
        **{"kind": "lsa", "index_topk": 5, "index_n_heads": 2, "index_head_dim": 16},
        **{"index_init_tokens": 1, "index_local_tokens": 1},
    },
}
BOUNDS, BUDGETS = torch.tensor([0, 9, 20, 23, 40], dtype=torch.int32), (2, 5, 8, 30)


def made(kind: str) -> tuple[Any, torch.Tensor, SequenceContext]:
    """The first attention module of a model, its input, and its context: two rows of documents of different lengths."""
    values = load_preset("smoke").model_dump() | {"attention": KINDS[kind], "num_attention_heads": 4}
    model = LongcatFlash(ModelConfig(**values))
    initialize(model, 0, {"hidden": 0.3, "router": 0.1})
    model = model.double()
    ids = torch.randint(4, 60, (2, 20), generator=torch.Generator().manual_seed(1))
    x_BTD = torch.randn(2, 20, model.config.hidden_size, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    return model.model.layers[0].self_attn[0], x_BTD, model.context(ids, BOUNDS)


def document_start(row: int, token: int) -> int:
    flat = row * 20 + token
    first = max(int(bound) for bound in BOUNDS if bound <= flat)
    return max(0, first - row * 20)


def attention(mixer: Any, x_BTD: torch.Tensor, where: SequenceContext, row: int, token: int) -> torch.Tensor:
    """Probabilities [H, positions of the document up to the token] of dense attention, from keys of all heads."""
    q_nope, q_rope, latent, k_rope = mixer.project(x_BTD, where)
    k, _ = mixer.expand(latent, k_rope)
    q = torch.cat((q_nope, q_rope), dim=-1)
    seen = slice(document_start(row, token), token + 1)
    return torch.einsum("hq,shq->hs", q[row, token], k[row, seen]).mul(mixer.softmax_scale).softmax(-1)


@pytest.mark.parametrize("kind", ["topk", "topk by group"])
def test_top_k_covers_the_greatest_masses(kind: str) -> None:
    mixer, x_BTD, where = made(kind)
    with torch.no_grad():
        found_BTR = mixer.coverage(x_BTD, where, BUDGETS)
        for row in range(2):
            for token in range(20):
                by_head = attention(mixer, x_BTD, where, row, token)
                groups = by_head.chunk(mixer.groups)
                for place, budget in enumerate(BUDGETS):
                    expected = [sorted(group.mean(0).tolist(), reverse=True)[:budget] for group in groups]
                    share = sum(map(sum, expected)) / len(groups)
                    assert found_BTR[row, token, place].item() == pytest.approx(share, abs=1e-9)


def test_an_indexer_covers_what_it_chooses() -> None:
    mixer, x_BTD, where = made("lsa")
    with torch.no_grad():
        found_BTR = mixer.coverage(x_BTD, where, BUDGETS)
        for place, budget in enumerate(BUDGETS):
            for row in range(2):
                of_row = SequenceContext(
                    where.positions_T,
                    where.cu_seqlens,
                    where.documents,
                    where.angles,
                    budgets_B=torch.full((2,), budget),
                )
                chosen_BTK = mixer(x_BTD, of_row).shared.chosen_BTK
                for token in range(20):
                    mass_S = attention(mixer, x_BTD, where, row, token).mean(0)
                    start = document_start(row, token)
                    expected = 1.0
                    if chosen_BTK is not None:
                        expected = sum(mass_S[int(one) - start].item() for one in chosen_BTK[row, token] if one >= 0)
                    assert found_BTR[row, token, place].item() == pytest.approx(expected, abs=1e-9)
    assert (found_BTR[..., -1] - 1).abs().max() < 1e-9
    assert found_BTR[..., 0].min() < 0.9


def test_the_second_module_of_a_layer_leaves_it_to_the_first() -> None:
    values = load_preset("smoke").model_dump() | {"attention": KINDS["lsa"]}
    config = ModelConfig(**values)
    second = LongcatFlash(config).model.layers[0].self_attn[1]
    assert [type(second).budget_in(config, slot) for slot in (0, 1)] == [5, 5]
    _, x_BTD, where = made("lsa")
    assert second.double().coverage(x_BTD, where, BUDGETS) is None
    warm = ModelConfig(**values | {"attention": KINDS["lsa"] | {"distillation": "warm-up"}})
    assert type(second).budget_in(warm, 0) is None
