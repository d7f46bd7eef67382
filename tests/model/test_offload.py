"""An offloaded cache: attention of every token equals plain loops, and does not depend on steps, copies or other texts.

Names: B texts, T tokens, H heads, E width of a cached position.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from longcat.model import paged_cache
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.offload import resident
from longcat.model.attention.offload.copier import OnDemand
from longcat.model.attention.offload.options import SUB_BLOCK, OffloadOptions
from longcat.model.errors import ModelError
from longcat.model.rows import Rows
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
LENGTH, PROMPT, PAGES = 74, 53, 40
BLOCK, RESIDENT = 8, 3


def options_of(**changes: Any) -> OffloadOptions:
    return OffloadOptions(**{"tier": "memory", "block": BLOCK, "resident_blocks": RESIDENT, "mode": "sync"} | changes)


@pytest.fixture(name="model")
def double_model(build_model: BuildModel) -> LongcatFlash:
    """In float64, with attention that differs much between positions."""
    model = build_model().double().eval()
    with torch.no_grad():
        for layer in model.model.layers:
            for mixer in layer.self_attn:
                mixer.q_b_proj.weight.mul_(6)
                mixer.kv_b_proj.weight.mul_(3)
    return model


@pytest.fixture(name="ids")
def token_ids() -> list[int]:
    return torch.randint(4, 97, (LENGTH,), generator=torch.Generator().manual_seed(1)).tolist()


# An oracle in plain loops


def quantized(vector: np.ndarray) -> np.ndarray:
    """INT4 values: groups of 32 channels, scale the bfloat16 nearest to a seventh of the largest."""
    values = [np.float32(value) for value in vector]
    found = []
    for first in range(0, len(values), 32):
        group = values[first : first + 32]
        seventh = np.float32(max(abs(value) for value in group)) / np.float32(7)
        scale = np.float32(torch.tensor(seventh).bfloat16().item())
        for value in group:
            code = 0 if scale == 0 else max(-7, min(7, round(float(np.float32(value / scale)))))
            found.append(code * float(scale))
    return np.array(found)


def one_score(scores_HX: list[list[float]], heads: str) -> list[float]:
    if heads != "mass":
        return [max(column) for column in zip(*scores_HX, strict=True)]
    shares = []
    for row in scores_HX:
        exponentials = [math.exp(score - max(row)) for score in row]
        shares.append([value / sum(exponentials) for value in exponentials])
    return [sum(column) for column in zip(*shares, strict=True)]


def dot(first: Iterable[float], second: Iterable[float]) -> float:
    return math.fsum(float(a) * float(b) for a, b in zip(first, second, strict=True))


def queries_of(q_HE: np.ndarray, heads: str) -> np.ndarray:
    return q_HE.sum(axis=0, keepdims=True) if heads == "sum" else q_HE


def block_scores(q_HE: np.ndarray, cached_SE: np.ndarray, blocks: int, options: OffloadOptions) -> list[float]:
    rows, size = queries_of(q_HE, options.heads), options.block
    if options.block_score == "minmax":
        bounds = [
            [
                sum(
                    max(q * low, q * high)
                    for q, low, high in zip(
                        row,
                        cached_SE[block * size : (block + 1) * size].min(axis=0),
                        cached_SE[block * size : (block + 1) * size].max(axis=0),
                        strict=True,
                    )
                )
                for block in range(blocks)
            ]
            for row in rows
        ]
        return one_score(bounds, options.heads)
    parts = blocks * size // SUB_BLOCK
    means = [quantized(cached_SE[p * SUB_BLOCK : (p + 1) * SUB_BLOCK].mean(axis=0)) for p in range(parts)]
    scores = one_score([[dot(row, mean) for mean in means] for row in rows], options.heads)
    join = sum if options.heads == "mass" else max
    each = size // SUB_BLOCK
    return [join(scores[block * each : (block + 1) * each]) for block in range(blocks)]


def chosen_blocks(q_HE: np.ndarray, cached_SE: np.ndarray, position: int, options: OffloadOptions) -> set[int]:
    newest = position // options.block
    if newest < options.resident_blocks:
        return set(range(newest + 1))
    scores = block_scores(q_HE, cached_SE, newest, options)
    ranked = sorted(range(1, newest), key=lambda block: (-scores[block], block))
    return {0, newest, *ranked[: options.resident_blocks - 2]}


def seen_positions(
    q_HE: np.ndarray, cached_SE: np.ndarray, position: int, blocks: set[int], options: OffloadOptions, channels: Any
) -> list[int]:
    size = options.block
    newest = position // size
    older = [block * size + within for block in sorted(blocks - {newest}) for within in range(size)]
    last = list(range(newest * size, position + 1))
    if not options.token_budget or len(older) + len(last) <= options.token_budget:
        return older + last
    rows = queries_of(q_HE, options.heads)[:, channels]
    index = [quantized(cached_SE[place, channels]) for place in older]
    scores = one_score([[dot(row, vector) for vector in index] for row in rows], options.heads)
    ranked = sorted(range(len(older)), key=lambda place: (-scores[place], place))
    return sorted(older[place] for place in ranked[: options.token_budget - len(last)]) + last


def oracle(
    mixer: MultiHeadLatentAttention, q_THE: np.ndarray, cached_TE: np.ndarray, options: OffloadOptions
) -> list[np.ndarray]:
    """Sums of latents [H, C] of the tokens after the prompt, and nothing of our code but the projections."""
    scale, latent = mixer.softmax_scale, mixer.latent_width
    weight_HNC = mixer.kv_b_proj.weight.detach().numpy().reshape(mixer.heads, -1, latent)[:, : mixer.nope_width]
    importance = [*np.square(weight_HNC.astype(np.float32)).sum(axis=(0, 1)), *[math.inf] * mixer.rope_width]
    ranked = sorted(range(len(importance)), key=lambda channel: -importance[channel])
    channels = sorted(ranked[: options.index_channels or None])
    chosen, outputs = chosen_blocks(q_THE[PROMPT - 1] * scale, cached_TE, PROMPT - 1, options), []
    for position in range(PROMPT, len(q_THE)):
        q_HE = q_THE[position] * scale
        blocks = chosen | {position // options.block}
        seen = seen_positions(q_HE, cached_TE, position, blocks, options, channels)
        scores = [[dot(row, cached_TE[place]) for place in seen] for row in q_HE]
        out = []
        for row in scores:
            weights = [math.exp(score - max(row)) for score in row]
            out.append(
                sum(w * cached_TE[place, :latent] for w, place in zip(weights, seen, strict=True)) / sum(weights)
            )
        outputs.append(np.array(out))
        chosen = chosen_blocks(q_HE, cached_TE, position, options)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block": 16, "heads": "sum"},
        {"heads": "max", "token_budget": 14, "index_channels": 0},
        {"block_score": "minmax", "token_budget": 12, "index_channels": 12, "resident_blocks": 4},
        {"block": 16, "block_score": "minmax", "heads": "sum", "token_budget": 20},
    ],
    ids=str,
)
def test_attention_equals_plain_loops(model: LongcatFlash, changes: dict[str, Any]) -> None:
    options, mixer = options_of(**changes), model.model.layers[0].self_attn[0]
    cache = model.new_pages(PAGES, options.block, slots=2, offload=options)
    x_1TD = torch.randn(1, LENGTH, model.config.hidden_size, generator=torch.Generator().manual_seed(2)).double()
    pages = random.Random(0).sample(range(PAGES), -(-LENGTH // options.block))
    where = model.step_context(StepBatch.of([Piece([5] * LENGTH, 0, pages)], options.block))
    projected = mixer.project(x_1TD, where)
    weight_HNC = mixer.absorbed_weights()[0]
    q_THE = torch.cat(
        (torch.einsum("thn,hnc->thc", projected.q_nope_BTHN[0], weight_HNC), projected.q_rope_BTHR[0]), -1
    )
    cached_TE = torch.cat((projected.latent_BTC, projected.k_rope_BTR), -1)[0]
    expected = oracle(mixer, q_THE.numpy(), cached_TE.numpy(), options)
    found, start = [], 0
    for count in [20, PROMPT - 20, *[1] * 7, 12, *[1] * (LENGTH - PROMPT - 19)]:
        piece = Piece([5] * count, start, pages, slot=1, dense=PROMPT)
        step = model.step_context(StepBatch.of([piece], options.block))
        found.append(cache.layer_states[0].attend(mixer, x_1TD[:, start : start + count], step)[0])
        start += count
    values = mixer.absorbed_weights()[1]
    for place, o_HC in enumerate(expected):
        o_HV = torch.einsum("hc,hvc->hv", torch.from_numpy(o_HC), values)
        torch.testing.assert_close(torch.cat(found)[PROMPT + place], o_HV, rtol=1e-9, atol=1e-9)


# Independence of steps, copies and other texts


def run(
    model: LongcatFlash,
    ids: list[int],
    options: OffloadOptions | None,
    splits: Sequence[int],
    dense: int = PROMPT,
    pages: Sequence[int] = tuple(range(PAGES)),
    cache: Any = None,
) -> torch.Tensor:
    """Logits of all tokens of one text, in pieces of these lengths."""
    block = BLOCK if options is None else options.block
    cache = cache or model.new_pages(PAGES, block, slots=2, offload=options)
    found, start = [], 0
    for count in splits:
        piece = Piece(ids[start : start + count], start, pages, count, slot=1, dense=dense)
        found.append(model.step(StepBatch.of([piece], block), cache).logits_RV)
        start += count
    return torch.cat(found)


ALONE = [PROMPT, *[1] * (LENGTH - PROMPT)]


@torch.no_grad()
@pytest.mark.parametrize("splits", [[LENGTH], [20, 20, 20, 14], [PROMPT - 1, 6, *[1] * (LENGTH - PROMPT - 5)]], ids=str)
@pytest.mark.parametrize("budget", [0, 14])
def test_logits_do_not_depend_on_steps(model: LongcatFlash, ids: list[int], splits: list[int], budget: int) -> None:
    options = options_of(token_budget=budget)
    expected = run(model, ids, options, ALONE)
    torch.testing.assert_close(run(model, ids, options, splits), expected, rtol=1e-9, atol=1e-9)
    dense = run(model, ids, None, ALONE)
    assert (expected[PROMPT:] - dense[PROMPT:]).abs().max() > 1e-3  # something was left out
    assert torch.equal(expected[:PROMPT], dense[:PROMPT])


@torch.no_grad()
def test_copies_beside_the_computation_change_no_bit(
    model: LongcatFlash, ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late they are."""
    delays, copy = random.Random(3), resident.Resident._copy

    def late(self: resident.Resident, *given: Any) -> None:
        time.sleep(delays.choice((0, 0.001, 0.01)))
        copy(self, *given)

    expected, options = run(model, ids, options_of(token_budget=14), ALONE), options_of(token_budget=14, mode="async")
    monkeypatch.setattr(resident.Resident, "_copy", late)
    assert torch.equal(run(model, ids, options, ALONE), expected)
    monkeypatch.setattr(paged_cache, "make_copier", lambda *_: OnDemand())
    assert torch.equal(run(model, ids, options, ALONE), expected)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["async", "sync"])
def test_attention_is_dense_while_the_context_fits(build_model: BuildModel, ids: list[int], mode: str) -> None:
    """To the bit, in float32, also with drafts and with other tokens of a step."""
    model, splits = build_model(), [11, 1, 3, 1, 1, 4, 1, 1, 1]
    options = options_of(mode=mode, token_budget=14)
    pages = [4, 5, 6, 7]
    expected = run(model, ids, None, splits, 11, pages)
    assert torch.equal(run(model, ids, options, splits, 11, pages), expected)
    assert sum(splits) == RESIDENT * BLOCK


@torch.no_grad()
def test_rejected_drafts_leave_nothing(model: LongcatFlash, ids: list[int]) -> None:
    """Drafts over the end of a block, in every step."""
    options = options_of(token_budget=14)
    expected = run(model, ids, options, ALONE)
    cache = model.new_pages(PAGES, BLOCK, slots=2, offload=options)
    found = [run(model, ids, options, [PROMPT], cache=cache)]
    for start in range(PROMPT, LENGTH):
        drafts = [ids[start], 7, 8, 9]
        piece = Piece(drafts, start, tuple(range(PAGES)), 4, slot=1, dense=PROMPT)
        found.append(model.step(StepBatch.of([piece], BLOCK), cache).logits_RV[:1])
    torch.testing.assert_close(torch.cat(found), expected, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_texts_do_not_disturb_each_other(model: LongcatFlash, ids: list[int]) -> None:
    """One text decodes beside the prompt and the decoding of another, which leaves its slot to a third."""
    options = options_of(token_budget=14, mode="async")
    texts = {0: ids, 1: ids[::-1], 2: ids[10:] + ids[:10]}
    expected = {key: run(model, text, options, ALONE) for key, text in texts.items()}
    cache = model.new_pages(PAGES, BLOCK, slots=2, offload=options)
    tables = {0: range(0, 12), 1: range(20, 32), 2: range(31, 19, -1)}  # the third reuses pages of the second
    lengths, found = dict.fromkeys(texts, 0), {key: [] for key in texts}
    while min(lengths.values()) < LENGTH:
        pieces = []
        for key in (0, 1) if lengths[1] < 66 else (0, 2):
            start = lengths[key]
            count = 1 if start >= PROMPT else min(30 - 7 * key, PROMPT - start)
            if start < LENGTH:
                slot = 0 if key == 0 else 1
                pieces.append(
                    (key, Piece(texts[key][start : start + count], start, tables[key], count, (), slot, PROMPT))
                )
        if not pieces:
            break
        logits_RV = model.step(StepBatch.of([piece for _, piece in pieces], BLOCK), cache).logits_RV
        for (key, piece), part in zip(pieces, logits_RV.split([len(p.ids) for _, p in pieces]), strict=True):
            found[key].append(part)
            lengths[key] += len(piece.ids)
    assert lengths == {0: LENGTH, 1: 66, 2: LENGTH}
    for key, parts in found.items():
        torch.testing.assert_close(torch.cat(parts), expected[key][: lengths[key]], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_copied_page_has_its_own_contents(model: LongcatFlash, ids: list[int]) -> None:
    """Two continuations of one prompt, whose last page is copied for the second."""
    options, prompt, size = options_of(token_budget=20, block=16), 60, 16
    expected = run(model, ids, options, [prompt, *[1] * (LENGTH - prompt)], prompt)
    cache = model.new_pages(PAGES, size, slots=2, offload=options)
    first, last = list(range(6)), prompt // size
    run(model, ids, options, [prompt - 1], prompt, first, cache)
    cache.copy(last, 30)
    second, other, found = [*first[:last], 30, 31], [3] * LENGTH, []
    for start in range(prompt - 1, LENGTH):
        one = ids[start : start + 1]
        pieces = [
            Piece(one if start < prompt else other[start : start + 1], start, first, 1, (), 0, prompt),
            Piece(one, start, second, 1, (), 1, prompt),
        ]
        found.append(model.step(StepBatch.of(pieces, size), cache).logits_RV[1:])
    torch.testing.assert_close(torch.cat(found), expected[prompt - 1 :], rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_pages_that_another_text_wrote_are_read_again(model: LongcatFlash, ids: list[int]) -> None:
    """A text in slot 1, another in slot 0 and the same pages, then a third in slot 1 with the prompt of the second."""
    options = options_of()
    expected = run(model, ids, options, ALONE)
    cache = model.new_pages(PAGES, BLOCK, slots=2, offload=options)
    run(model, ids[::-1], options, ALONE, cache=cache)
    step = StepBatch.of([Piece(ids[:PROMPT], 0, tuple(range(PAGES)), 1, slot=0, dense=PROMPT)], BLOCK)
    model.step(step, cache)
    found = []
    for start in range(PROMPT - 1, LENGTH):
        piece = Piece(ids[start : start + 1], start, tuple(range(PAGES)), 1, slot=1, dense=PROMPT)
        found.append(model.step(StepBatch.of([piece], BLOCK), cache).logits_RV)
    torch.testing.assert_close(torch.cat(found), expected[PROMPT - 1 :], rtol=1e-9, atol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("other", [{"kind": "topk", "k": 6}, {"kind": "window", "size": 12}], ids=str)
def test_other_kinds_keep_their_states(build_model: BuildModel, ids: list[int], other: dict[str, Any]) -> None:
    """Dense while the context fits, and the same in any steps beyond."""
    model = build_model(attention={"pattern": [other, "mla"]}).double()
    short, fits = run(model, ids[:24], None, [11, *[1] * 13], 11), options_of()
    torch.testing.assert_close(run(model, ids[:24], fits, [11, *[1] * 13], 11), short, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(run(model, ids, fits, [20, 54]), run(model, ids, fits, ALONE), rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_figures(model: LongcatFlash, ids: list[int]) -> None:
    options = options_of(resident_blocks=4, measure_every=1)
    rows = Rows(model, 1, LENGTH, BLOCK, options)
    for piece in torch.tensor([ids]).split(ALONE, dim=1):
        rows.append(piece)
    stats, slots = rows.cache.offload_stats, len(rows.cache.layer_states)
    assert stats.tokens == stats.measured == slots * (LENGTH - PROMPT)
    assert stats.chosen == 4 * stats.tokens
    assert 0 < stats.hit_rate < 1 and 0.2 < stats.recall < 1
    width = rows.cache.layer_states[0].pages_PLW.shape[2]
    assert stats.moved_bytes >= stats.missing * BLOCK * width * 8 > 0
    assert rows.cache.nbytes == rows.cache.bytes_per_page * rows.cache.pages + rows.cache.resident_bytes


@torch.no_grad()
def test_choices_that_were_not_made_are_refused(model: LongcatFlash, ids: list[int]) -> None:
    cache = model.new_pages(PAGES, BLOCK, slots=2, offload=options_of())
    run(model, ids, options_of(), [PROMPT], LENGTH, cache=cache)
    piece = Piece(ids[PROMPT : PROMPT + 1], PROMPT, tuple(range(PAGES)), 1, slot=1, dense=PROMPT)
    with pytest.raises(ModelError, match="slot 1 holds no choice of blocks after position 52; compute the sequence"):
        model.step(StepBatch.of([piece], BLOCK), cache)
