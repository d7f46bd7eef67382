"""A step over many sequences equals forward passes of each, for any pieces, pages and mixtures."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
import torch

from longcat.model.attention.base import SequenceMixer
from longcat.model.errors import ModelError
from longcat.model.paged_cache import PagedCache
from longcat.model.step import Piece, StepBatch, StepOutput
from longcat.model.transformer import LongcatFlash
from tests.model.test_embeddings import Trigram

BuildModel = Callable[..., LongcatFlash]
PAGE = 4
EXACT = {"rtol": 1e-10, "atol": 1e-10}
LENGTHS = (61, 3, 20, 37)


@pytest.fixture
def model(build_model: BuildModel) -> LongcatFlash:
    return build_model(num_nextn_predict_layers=1).double()


def texts() -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(97) for _ in range(length)] for length in LENGTHS]


def page_lists(order: str) -> list[list[int]]:
    """Disjoint pages for every text, consecutive, or in random order."""
    pages = list(range(2, 2 + sum(-(-length // PAGE) for length in LENGTHS)))
    if order == "random":
        random.Random(3).shuffle(pages)
    return [[pages.pop(0) for _ in range(-(-length // PAGE))] for length in LENGTHS]


def step(model: LongcatFlash, cache: PagedCache, pieces: Sequence[Piece]) -> StepOutput:
    return model.step(StepBatch.of(pieces, PAGE, look_back=model.model.embed_tokens.look_back), cache)


def in_pieces(model: LongcatFlash, splits: Sequence[Sequence[int]], order: str) -> list[torch.Tensor]:
    """Logits of every position of every text; step i takes piece i of each text that has one, shorter texts first."""
    cache, tables = model.new_pages(40, PAGE), page_lists(order)
    found: list[list[torch.Tensor]] = [[] for _ in LENGTHS]
    for place in range(max(map(len, splits))):
        pieces, owners = [], []
        for row in sorted(range(len(LENGTHS)), key=lambda row: LENGTHS[row]):
            if place < len(splits[row]) and splits[row][place]:
                start, count = sum(splits[row][:place]), splits[row][place]
                ids, previous = texts()[row][start : start + count], texts()[row][:start]
                pieces.append(Piece(ids, start, tables[row], count, previous, slot=row))
                owners.append(row)
        logits_RV = step(model, cache, pieces).logits_RV
        for row, part in zip(owners, logits_RV.split([len(piece.ids) for piece in pieces]), strict=True):
            found[row].append(part)
    return [torch.cat(parts) for parts in found]


SPLITS = {
    "whole": [[61], [3], [20], [37]],
    "token by token": [[1] * length for length in LENGTHS],
    "prefill beside decode": [[40, 20, 1], [1, 1, 1], [0, 18, 1, 1], [30, 1, 6]],
    "drafts of several lengths": [[50, 3, 4, 4], [0, 1, 2], [9, 3, 3, 5], [34, 1, 1, 1]],
    "within pages": [[5, 2, 31, 23], [2, 1], [3, 1, 16], [6, 31]],
}


@torch.no_grad()
@pytest.mark.parametrize("order", ["consecutive", "random"])
@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS.keys())
@pytest.mark.parametrize("kernels", ["", "reference"])
def test_pieces_equal_whole_texts(
    model: LongcatFlash, splits: list[list[int]], order: str, kernels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", kernels)
    for found, ids in zip(in_pieces(model, splits, order), texts(), strict=True):
        torch.testing.assert_close(found, model(torch.tensor([ids])).logits[0], **EXACT)


@torch.no_grad()
def test_an_embedding_of_earlier_ids_gets_them_from_the_pieces(model: LongcatFlash) -> None:
    model.model.embed_tokens = Trigram(model.model.embed_tokens)
    for splits in ("token by token", "prefill beside decode"):
        for found, ids in zip(in_pieces(model, SPLITS[splits], "random"), texts(), strict=True):
            torch.testing.assert_close(found, model(torch.tensor([ids])).logits[0], **EXACT)
    cache = model.new_pages(4, PAGE)
    with pytest.raises(ModelError, match="needs the 2 ids before position 3, the piece has previous = 1"):
        StepBatch.of([Piece([1], 3, [0], previous=[5])], PAGE, look_back=2)
    with pytest.raises(ModelError, match="needs the 2 ids before every token, the batch has 0; make it with look_back"):
        model.step(StepBatch.of([Piece([1], 0, [0])], PAGE), cache)


@torch.no_grad()
def test_only_wanted_logits_are_returned(model: LongcatFlash) -> None:
    ids = texts()
    cache, tables = model.new_pages(40, PAGE), page_lists("random")
    pieces = [Piece(ids[0][:9], 0, tables[0], 2), Piece(ids[2], 0, tables[2], 0), Piece(ids[1], 0, tables[1], 1)]
    output = step(model, cache, pieces)
    assert output.hidden_TD.shape == (9 + 20 + 3, 32)
    whole = [model(torch.tensor([piece.ids])) for piece in pieces]
    expected = torch.cat((whole[0].logits[0, -2:], whole[2].logits[0, -1:]))
    torch.testing.assert_close(output.logits_RV, expected, **EXACT)
    torch.testing.assert_close(output.hidden_TD, torch.cat([each.hidden_BTD[0] for each in whole]), **EXACT)
    assert [layer.counts_E.sum() for layer in output.routing] == 2 * [32 * 3]
    assert step(model, cache, [Piece(ids[0][9:12], 9, tables[0], 0)]).logits_RV.shape == (0, 97)


@torch.no_grad()
def test_sequences_share_pages_and_a_copied_page_is_independent(model: LongcatFlash) -> None:
    """Two continuations of ten tokens: full pages are shared, the page that both continue in is copied."""
    prompt, one, other = texts()[0][:10], [5, 6, 7], [8, 9, 10]
    cache = model.new_pages(8, PAGE)
    step(model, cache, [Piece(prompt, 0, [6, 1, 4])])
    before = [state.pages_PLW[4].clone() for state in (*cache.layer_states, *cache.mtp_states)]
    cache.copy(4, 0)
    after = [state.pages_PLW[0] for state in (*cache.layer_states, *cache.mtp_states)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    output = step(model, cache, [Piece(one, 10, [6, 1, 4, 2], 3), Piece(other, 10, [6, 1, 0, 5], 3)])
    for found, ids in zip(output.logits_RV.split(3), (one, other), strict=True):
        torch.testing.assert_close(found, model(torch.tensor([prompt + ids])).logits[0, 10:], **EXACT)


@torch.no_grad()
def test_a_rejected_draft_is_overwritten(model: LongcatFlash) -> None:
    ids = texts()[0]
    cache = model.new_pages(8, PAGE)
    step(model, cache, [Piece([*ids[:6], 90, 91, 92], 0, [3, 7, 2])])
    output = step(model, cache, [Piece(ids[6:8], 6, [3, 7, 2], 2)])
    torch.testing.assert_close(output.logits_RV, model(torch.tensor([ids[:8]])).logits[0, 6:], **EXACT)


@torch.no_grad()
def test_multi_token_prediction_takes_the_same_pages(model: LongcatFlash) -> None:
    """In pieces, after the model, and one token further from its own hidden state."""
    ids, tables = texts(), page_lists("random")
    cache = model.new_pages(40, PAGE)
    expected, hidden = [], []
    for row in range(4):
        whole = model(torch.tensor([ids[row]]))
        hidden.append(whole.hidden_BTD[0])
        expected.append(model.mtp_forward(whole.hidden_BTD[:, :-1], torch.tensor([ids[row][1:]])))
    for first, last in ((0, 1), (1, 2), (2, 18), (18, 19), (19, 36)):
        rows = [row for row in range(4) if len(ids[row]) > last]
        pieces = [Piece(ids[row][first + 1 : last + 1], first, tables[row], last - first) for row in rows]
        hidden_TD = torch.cat([hidden[row][first:last] for row in rows])
        output = model.mtp_step(hidden_TD, StepBatch.of(pieces, PAGE), cache)
        logits = torch.cat([expected[row].logits[0, first:last] for row in rows])
        torch.testing.assert_close(output.logits_RV, logits, **EXACT)
        torch.testing.assert_close(
            output.hidden_TD, torch.cat([expected[row].hidden_BTD[0, first:last] for row in rows]), **EXACT
        )
    further = StepBatch.of([Piece([11], 36, tables[3])], PAGE)
    found = model.mtp_step(output.hidden_TD[-1:], further, cache).logits_RV
    states = torch.cat((hidden[3][:36], output.hidden_TD[-1:])).unsqueeze(0)
    whole_logits = model.mtp_forward(states, torch.tensor([[*ids[3][1:37], 11]])).logits
    torch.testing.assert_close(found, whole_logits[0, -1:], **EXACT)
    with pytest.raises(ModelError, match="2 hidden states do not fit 1 next tokens"):
        model.mtp_step(hidden[0][:2], further, cache)


def test_memory_is_counted_and_does_not_grow(model: LongcatFlash) -> None:
    cache = model.new_pages(6, PAGE)
    assert cache.bytes_per_page == 5 * PAGE * (16 + 6) * 8
    assert cache.nbytes == 6 * cache.bytes_per_page
    assert (cache.pages, cache.page_size, cache.recurrent, cache.bytes_per_slot) == (6, PAGE, False, 0)
    places = [state.pages_PLW.data_ptr() for state in cache.layer_states]
    with torch.no_grad():
        step(model, cache, [Piece(list(range(24)), 0, [5, 4, 3, 2, 1, 0])])
    assert [state.pages_PLW.data_ptr() for state in cache.layer_states] == places


WRONG: dict[str, tuple[list[Piece], str]] = {
    "nothing": ([], "at least one piece"),
    "no tokens": ([Piece([], 0, [0])], "a piece needs tokens .* got 0 from 0 on"),
    "negative start": ([Piece([1], -1, [0])], "got 1 from -1 on"),
    "too few pages": ([Piece([1, 2], 7, [0, 1])], "2 pages of 4 positions do not hold 9 positions"),
    "negative page": ([Piece([1], 0, [-1])], "the piece has page -1"),
    "logits": ([Piece([1, 2], 0, [0], 3)], "logits of 3 tokens are wanted of a piece of 2"),
    "shared page": ([Piece([1], 5, [0, 1]), Piece([1], 4, [2, 1])], "two pieces of a step write to page 1; copy"),
    "page": ([Piece([1], 0, [6])], "there is no page 6: the cache has 6, from 0 on"),
    "token": ([Piece([97], 0, [0])], "token 97 is outside the vocabulary of 97"),
}


@torch.no_grad()
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_batch_is_refused(case: str, model: LongcatFlash) -> None:
    pieces, message = WRONG[case]
    with pytest.raises(ModelError, match=message):
        step(model, model.new_pages(6, PAGE), pieces)


@torch.no_grad()
def test_a_wrong_cache_is_refused(
    model: LongcatFlash, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = StepBatch.of([Piece([1], 0, [0])], PAGE)
    with pytest.raises(ModelError, match="pages of 4 positions, the cache has 8"):
        model.step(batch, model.new_pages(6, 8))
    with pytest.raises(ModelError, match="at least one page of one position, got pages = 0"):
        model.new_pages(0)
    with pytest.raises(ModelError, match="there is no page 9: the cache has 6"):
        model.new_pages(6).copy(2, 9)
    with torch.enable_grad(), pytest.raises(ModelError, match=r"does not support gradients; .* torch.no_grad"):
        model.step(batch, model.new_pages(6, PAGE))
    with pytest.raises(ModelError, match="needs num_nextn_predict_layers = 1"):
        plain = build_model()
        plain.mtp_step(torch.zeros(1, 32), batch, plain.new_pages(6, PAGE))
    monkeypatch.setattr("longcat.model.attention.mla.MultiHeadLatentAttention.state_kind", SequenceMixer.state_kind)
    with pytest.raises(ModelError, match="attention 'mla' keeps no pages and no state per sequence"):
        model.new_pages(6)
