"""Kinds that choose positions, `lsa` and `topk`, against plain loops and formulas in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from longcat.kernels.index_scores import ABSENT, Always
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.index_pages import PageSizes, choose_in_pages, store_means
from longcat.model.attention.lsa import FIGURES, LOSS, LongcatSparseAttention
from longcat.model.attention.pages import PageState, Span, StepLayout
from longcat.model.attention.topk import TopKAttention
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.init import initialize
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

LSA: dict[str, Any] = {
    **{"kind": "lsa", "index_topk": 9, "index_n_heads": 2, "index_head_dim": 10},
    **{"index_init_tokens": 2, "index_local_tokens": 3},
}
PAGES = {"kept_pages": 4, "page": 4, "block": 2, "first_paged_layer": 0}
LARGE = {"hidden": 0.2, "router": 0.2, "embedding": 1.0, "unembedding": 0.3}


def built(config: ModelConfig, attention: Any, **changes: Any) -> LongcatFlash:
    fields = {**config.model_dump(), "num_nextn_predict_layers": 0, "attention": attention} | changes
    model = LongcatFlash(ModelConfig(**fields))
    initialize(model, 3, LARGE)
    return model


def ids(tokens: int, rows: int = 2) -> torch.Tensor:
    return torch.randint(4, 97, (rows, tokens), generator=torch.Generator().manual_seed(1))


def mixers_of(model: LongcatFlash, layer: int = 0) -> list[Any]:
    return list(model.model.layers[layer].self_attn)


def turned(x: torch.Tensor, angles_TP: torch.Tensor, *, interleaved: bool) -> torch.Tensor:
    """[T, ..., R] rotated pair by pair."""
    x = x.clone()
    pairs = angles_TP.shape[1]
    for t in range(len(x)):
        for p in range(pairs):
            a, b = (2 * p, 2 * p + 1) if interleaved else (p, p + pairs)
            cos, sin = angles_TP[t, p].cos(), angles_TP[t, p].sin()
            one, two = x[t, ..., a].clone(), x[t, ..., b].clone()
            x[t, ..., a], x[t, ..., b] = one * cos - two * sin, one * sin + two * cos
    return x


def plain_scores(mixer: LongcatSparseAttention, x_TD: torch.Tensor, angles_TP: torch.Tensor) -> torch.Tensor:
    """Scores [T, S] of the indexer by its definition."""
    own = mixer.indexer
    latent = x_TD @ mixer.q_a_proj.weight.T
    latent = latent / (latent.square().mean(-1, keepdim=True) + 1e-6).sqrt() * mixer.q_a_layernorm.weight
    key = x_TD @ own.wk.weight.T
    key = key / (key.square().mean(-1, keepdim=True) + 1e-6).sqrt() * own.k_norm.weight
    q = (latent @ own.wq_b.weight.T).unflatten(-1, (own.heads, own.width))
    w = x_TD @ own.weights_proj.weight.T / (own.heads * own.width) ** 0.5
    rotary = own.rope_width
    q = torch.cat((turned(q[..., :rotary], angles_TP, interleaved=own.interleaved), q[..., rotary:]), -1)
    key = torch.cat((turned(key[..., :rotary], angles_TP, interleaved=own.interleaved), key[..., rotary:]), -1)
    return sum(w[:, j, None] * (q[:, j] @ key.T).clamp(min=0) for j in range(own.heads))


def set_by_loops(scores: list[float], at: int, count: int, first: int, last: int, start: int = 0) -> list[int]:
    forced = [s for s in range(start, at + 1) if s < start + first or s > at - last]
    rest = sorted((s for s in range(start, at + 1) if s not in forced), key=lambda s: (-scores[s], s))
    return sorted(forced + rest[: max(0, count - len(forced))])


def plain_attention(mixer: Any, x_BTD: torch.Tensor, where: SequenceContext, sets: list[list[list[int]]]) -> Any:
    """Output of the module over the sets of every row and token, head by head, and the probabilities [B, H, T, S]."""
    projected = mixer.project(x_BTD, where)
    k, v = mixer.expand(projected.latent_BTC, projected.k_rope_BTR)
    q = torch.cat((projected.q_nope_BTHN, projected.q_rope_BTHR), -1)
    seen = torch.zeros(x_BTD.shape[0], 1, x_BTD.shape[1], x_BTD.shape[1], dtype=torch.bool)
    for row, of_row in enumerate(sets):
        for t, positions in enumerate(of_row):
            seen[row, 0, t, positions] = True
    scores = torch.einsum("bthq,bshq->bhts", q, k) * mixer.softmax_scale
    probabilities = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return mixer.o_proj(torch.einsum("bhts,bshv->bthv", probabilities, v).flatten(2)), probabilities


def inputs(model: LongcatFlash, tokens: int, **fields: Any) -> tuple[torch.Tensor, SequenceContext]:
    x_BTD = torch.randn(2, tokens, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    return x_BTD, model.context(torch.zeros(2, tokens, dtype=torch.int64), **fields)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(5)


@torch.no_grad()
@pytest.mark.parametrize("attention", [LSA | {"index_topk": 20}, {"kind": "topk", "k": 20}])
def test_rows_no_longer_than_the_budget_are_dense_bit_for_bit(attention: Any, config: ModelConfig) -> None:
    sparse, dense = built(config, attention), built(config, None)
    shared = {name: value for name, value in sparse.state_dict().items() if ".indexer." not in name}
    dense.load_state_dict(shared)
    cu_seqlens = torch.tensor([0, 7, 20, 40])
    for given in (None, cu_seqlens):
        assert torch.equal(sparse(ids(20), given).logits, dense(ids(20), given).logits)
    rows = [Rows(model, 2, 20, page_size=4) for model in (sparse, dense)]
    for piece in ids(20).split([9, 1, 6, 4], dim=1):
        once, again = (one.append(piece).logits for one in rows)
        assert torch.equal(once, again)
    longer = sparse(ids(24)).logits
    assert not torch.allclose(longer[:, 21:], dense(ids(24)).logits[:, 21:], atol=1e-5)


@pytest.mark.parametrize("interleaved", [True, False])
def test_output_and_gradients_equal_attention_over_the_set_of_the_definition(
    interleaved: bool, config: ModelConfig
) -> None:
    """Both modules of a layer, the second with the set of the first; documents of several lengths."""
    model = built(config, LSA | {"indexer_rope_interleave": interleaved}).double()
    x_BTD, where = inputs(model, 22, cu_seqlens=torch.tensor([0, 22, 25, 44]))
    starts = [0] * 22, [0] * 3 + [3] * 19
    first, second = mixers_of(model)
    angles_TP = where.angles[config.qk_rope_head_dim]
    sets = []
    for row in range(2):
        scores = plain_scores(first, x_BTD[row].detach(), angles_TP).tolist()
        sets.append([set_by_loops(scores[t], t, 9, 2, 3, starts[row][t]) for t in range(22)])
    for mixer in (first, second):
        output = mixer(x_BTD, where)
        where = where.after(output)
        for row in range(2):
            found = [[s for s in one if s != ABSENT] for one in where.shared.chosen_BTK[row].tolist()]
            assert found == sets[row]
        expected, _ = plain_attention(mixer, x_BTD, where, sets)
        torch.testing.assert_close(output.y_BTD, expected, rtol=1e-10, atol=1e-10)
        trained = [p for name, p in mixer.named_parameters() if "indexer" not in name]
        direction = torch.randn_like(expected)
        ours, plain = (
            torch.autograd.grad(y, [x_BTD, *trained], direction, retain_graph=True) for y in (output.y_BTD, expected)
        )
        for once, again in zip(ours, plain, strict=True):
            torch.testing.assert_close(once, again, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("stage", "tokens"), [("warm-up", 22), ("sparse", 22), ("sparse", 8)])
def test_distillation_is_the_divergence_from_the_attention_of_both_modules(
    stage: str, tokens: int, config: ModelConfig
) -> None:
    model = built(config, LSA | {"distillation": stage}).double()
    bounds = torch.tensor([0, tokens, tokens + 3, 2 * tokens])
    x_BTD, where = inputs(model, tokens, cu_seqlens=bounds)
    starts = [0] * tokens, [0] * 3 + [3] * (tokens - 3)
    first, second = mixers_of(model)
    scores_BTS = torch.stack(
        [plain_scores(first, x_TD, where.angles[config.qk_rope_head_dim]) for x_TD in x_BTD.detach()]
    )
    full = [[list(range(starts[row][t], t + 1)) for t in range(tokens)] for row in range(2)]
    sets = [
        [set_by_loops(scores_BTS[row, t].tolist(), t, 9, 2, 3, starts[row][t]) for t in range(tokens)]
        for row in range(2)
    ]
    seen = full if stage == "warm-up" else sets
    total, expected = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for mixer in (first, second):
        output = mixer(x_BTD, where)
        where = where.after(output)
        total = total + output.losses[LOSS]
        y_BTD, probabilities = plain_attention(mixer, x_BTD.detach(), where, seen)
        torch.testing.assert_close(output.y_BTD, y_BTD, rtol=1e-10, atol=1e-10)
        target_BTS = probabilities.mean(1).detach()
        for row in range(2):
            for t, positions in enumerate(seen[row]):
                log_q = scores_BTS[row, t, positions].log_softmax(-1)
                p = target_BTS[row, t, positions]
                expected = expected + (p * (p.log() - log_q)).sum()
    torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
    names, parameters = zip(*first.named_parameters(), strict=True)
    ours = torch.autograd.grad(total, (*parameters, x_BTD), allow_unused=True, retain_graph=True)
    indexer = [p for name, p in first.named_parameters() if "indexer" in name]
    plain = iter(torch.autograd.grad(expected, indexer))
    for name, grad in zip((*names, "input"), ours, strict=True):
        if "indexer" in name:
            torch.testing.assert_close(grad, next(plain), rtol=1e-8, atol=1e-12)
        else:
            assert grad is None, name


def test_figures_of_the_choice(config: ModelConfig) -> None:
    """Of dense attention in the last rows; everything is chosen in short ones, where precision and mass are one."""
    model = built(config, LSA | {"distillation": "sparse"}).double()
    for tokens in (8, 16):
        x_BTD, where = inputs(model, tokens)
        output = mixers_of(model)[0](x_BTD, where)
        sets = [[list(range(t + 1)) for t in range(tokens)]] * 2
        mass = plain_attention(mixers_of(model)[0], x_BTD, where, sets)[1].mean(1)
        chosen = output.shared.chosen_BTK
        sums = [0.0, 0.0, 0.0]
        for row in range(2):
            for t in range(tokens):
                kept = [s for s in chosen[row, t].tolist() if s != ABSENT]
                best = sorted(range(t + 1), key=lambda s: (-float(mass[row, t, s]), s))[: len(kept)]
                sums[0] += len(set(kept) & set(best)) / len(kept)
                sums[1] += float(mass[row, t, kept].sum())
                sums[2] -= sum(float(p) * float(p.log()) for p in mass[row, t, : t + 1])
        for name, value in zip(FIGURES, sums, strict=True):
            assert not output.losses[name].requires_grad
            assert float(output.losses[name]) == pytest.approx(value / 4, rel=1e-9)  # four modules in the model
        assert (sums[1] == pytest.approx(2 * tokens)) == (tokens == 8)


@torch.no_grad()
@pytest.mark.parametrize("heads", ["all", "head", "group"])
def test_exact_top_k_attends_to_the_greatest_probabilities(heads: str, config: ModelConfig) -> None:
    options = {"kind": "topk", "k": 5, "share": heads} | ({"groups": 2} if heads == "group" else {})
    model = built(config, options, num_attention_heads=4).double()
    x_BTD, where = inputs(model, 17, cu_seqlens=torch.tensor([0, 17, 20, 34]))
    mixer = mixers_of(model)[0]
    assert isinstance(mixer, TopKAttention)
    starts = [0] * 17, [0] * 3 + [3] * 14
    full = [[list(range(starts[row][t], t + 1)) for t in range(17)] for row in range(2)]
    _, mass_BHTS = plain_attention(mixer, x_BTD, where, full)
    projected = mixer.project(x_BTD, where)
    found_BTHV = mixer.attend(*projected, where)
    size = {"all": 4, "head": 1, "group": 2}[heads]
    for group in range(4 // size):
        own = slice(group * size, group * size + size)
        sets = [
            [set_by_loops(mass_BHTS[row, own, t].sum(0).tolist(), t, 5, 0, 0, starts[row][t]) for t in range(17)]
            for row in range(2)
        ]
        _, probabilities = plain_attention(mixer, x_BTD, where, sets)
        _, v_BSHV = mixer.expand(projected.latent_BTC, projected.k_rope_BTR)
        expected = torch.einsum("bhts,bshv->bthv", probabilities, v_BSHV)
        torch.testing.assert_close(found_BTHV[:, :, own], expected[:, :, own], rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("attention", [LSA, {"kind": "topk", "k": 9}])
def test_rows_with_budgets_attend_to_more_or_fewer_positions(attention: Any, config: ModelConfig) -> None:
    """As a model with that budget does; a budget of the whole row is dense."""
    model = built(config, attention).double()
    key = "index_topk" if attention["kind"] == "lsa" else "k"
    found = model._hidden(ids(22), None, budgets_B=torch.tensor([6, 14])).hidden_BTD
    for row, budget in enumerate((6, 14)):
        other = built(config, attention | {key: budget}).double()
        torch.testing.assert_close(found[row], other(ids(22)).hidden_BTD[row], rtol=1e-10, atol=1e-10)
    whole = model._hidden(ids(22), None, budgets_B=torch.tensor([22, 22])).hidden_BTD
    assert torch.equal(whole, built(config, attention | {key: 22}).double()(ids(22)).hidden_BTD)


@torch.no_grad()
def test_pages_are_chosen_by_the_mean_keys_of_their_blocks() -> None:
    """Eleven pages of four positions, the last one short; blocks of two."""
    q, w, keys = torch.randn(1, 3, 6).double(), torch.randn(1, 3).double(), torch.randn(43, 6).double()
    means = torch.stack([keys[first : first + 2].mean(0) for first in range(0, 43, 2)])
    found = choose_in_pages(q, w, keys, means, 9, Always(2, 3), PageSizes(5, 4, 2))

    def score(key: torch.Tensor) -> float:
        return sum(float(w[0, j]) * max(0.0, float(q[0, j] @ key)) for j in range(3))

    pages = {page: sum(score(mean) for mean in means[2 * page : 2 * page + 2]) for page in range(11)}
    forced = [0, 10]  # with the first two and the last three positions, 40 to 42
    rest = sorted((page for page in pages if page not in forced), key=lambda page: (-pages[page], page))
    kept = {s for page in forced + rest[:3] for s in range(4 * page, min(43, 4 * page + 4))}
    scores = [score(key) if s in kept else float("-inf") for s, key in enumerate(keys)]
    assert found[0].tolist() == set_by_loops(scores, 42, 9, 2, 3)
    everything = choose_in_pages(q, w, keys, means, 9, Always(2, 3), PageSizes(11, 4, 2))
    assert everything[0].tolist() == set_by_loops([score(key) for key in keys], 42, 9, 2, 3)


@torch.no_grad()
def test_means_of_blocks_follow_the_keys_and_few_pages_change_the_choice(config: ModelConfig) -> None:
    """After pieces, a rewind and pieces again; the paged model decodes as one that keeps all pages does, if it does."""
    model = built(config, LSA | PAGES).double()
    rows = Rows(model, 2, 32, page_size=8)
    for piece in ids(31)[:, :24].split([13, 1, 1, 9], dim=1):
        rows.append(piece)
    rows.rewind(17)
    text = torch.cat((ids(31)[:, :17], ids(31).flip(1)[:, :14]), dim=1)
    logits = [rows.append(piece).logits for piece in text[:, 17:].split([7, 1, 1, 2, 3], dim=1)]
    for layer in range(2):
        _, keys, means = rows.cache.layer_states[2 * layer]
        held = keys.pages_PLW.view(-1, 2, 10)
        full = means.pages_PLW.view(-1, 10).abs().sum(1) > 0
        sizes = torch.where((held.abs().sum(2) > 0).all(1), 2, 1)
        expected = held.sum(1) / sizes.unsqueeze(1)
        whole = full & (sizes == 2)
        assert int(whole.sum()) >= 2 * 15
        torch.testing.assert_close(means.pages_PLW.view(-1, 10)[whole], expected[whole])
    exact = built(config, LSA | PAGES | {"kept_pages": 8}).double()
    dense_pages = Rows(exact, 2, 32, page_size=8)
    again = [dense_pages.append(piece).logits for piece in text.split([17, 7, 1, 1, 2, 3], dim=1)][1:]
    torch.testing.assert_close(torch.cat(again, 1), exact(text).logits[:, 17:], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(torch.cat(logits, 1), torch.cat(again, 1), atol=1e-6)


@torch.no_grad()
def test_the_mean_of_a_block_that_is_not_full_has_only_its_positions() -> None:
    """The memory behind them holds what an earlier sequence left."""
    keys, means = PageState(torch.full((2, 4, 3), 9.0)), PageState(torch.zeros(2, 2, 3))
    layout = StepLayout([Span(0, 3, 0, 0)], [[1, 0]], 4, torch.device("cpu"))
    values = torch.randn(3, 3)
    keys.store(layout, values)
    store_means(keys, means, layout, 2)
    torch.testing.assert_close(means.pages_PLW[1], torch.stack((values[:2].mean(0), values[2])))
    assert (means.pages_PLW[0] == 0).all()


WRONG: list[tuple[Any, str]] = [
    (LSA | {"index_topk": 4}, r"index_init_tokens \+ index_local_tokens = 5 exceed index_topk = 4"),
    (LSA | {"index_topk": 300}, "index_topk = 300 exceeds max_position_embeddings"),
    (LSA | {"index_head_dim": 4}, "index_head_dim = 4 is below qk_rope_head_dim"),
    (LSA | {"kept_pages": 2, "page": 4, "block": 3}, "block = 3 does not divide page = 4"),
    (LSA | {"kept_pages": 2, "page": 4, "block": 2}, "give at least 4"),
    ({"pattern": ["mla", LSA]}, "slot 1 attends to the positions of slot 0, which is 'mla'"),
    ({"kind": "topk"}, "give one of k and ratio"),
    ({"kind": "topk", "k": 3, "ratio": 0.1}, "give one of k and ratio"),
    ({"kind": "topk", "k": 3, "share": "group"}, "groups belongs to share: group"),
    ({"kind": "topk", "k": 3, "share": "group", "groups": 5}, "groups = 5 does not divide num_attention_heads"),
    ({"kind": "topk", "k": 3000}, "k = 3000 exceeds max_position_embeddings"),
]


@pytest.mark.parametrize(("attention", "message"), WRONG)
def test_what_does_not_fit_is_refused_by_name(attention: Any, message: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=message):
        ModelConfig.from_dict({**config.to_dict(), "attention": attention})


def test_an_indexer_needs_a_query_latent(config: ModelConfig) -> None:
    changes = {"q_lora_rank": None, "mla_scale_q_lora": False, "attention": LSA}
    with pytest.raises(ModelConfigError, match="index_topk needs q_lora_rank"):
        ModelConfig.from_dict({**config.to_dict(), **changes})
