"""Steps in tiles: the same bits for a text however its tokens are divided, in any company and in any pages."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from longcat.kernels.packed_linear import missing
from longcat.model import mixers
from longcat.model.errors import ModelError
from longcat.model.packed.choice import AsAsked
from longcat.model.packed.prepare import prepare
from longcat.model.step import Piece
from longcat.model.tiles import ROWS, TiledModel, check_places
from longcat.model.tiles.pieces import tiles
from longcat.model.transformer import LongcatFlash

from .conftest import BuildModel
from .test_embeddings import Trigram

PAGE = 4
LENGTHS = (41, 3, 19, 30, 1, 9, 12, 2, 23, 5)
SHAPES: dict[str, dict[str, object]] = {
    "all widths differ": {},
    "widths of 8": {"hidden_size": 72, "ffn_hidden_size": 104, "qk_rope_head_dim": 8, "expert_ffn_hidden_size": 24},
    "widths of 64": {"hidden_size": 64, "ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "kv_lora_rank": 64},
    # A router of four: with two or three outputs MKL computes by the place of a row, and the mode is refused.
    "one expert for all": {"n_routed_experts": 2, "zero_expert_num": 2, "moe_topk": 2},
    "interleaved": {"moe_layout": "interleaved"},
    "span": {"moe_layout": "span"},
    "gating residual": {"gating_residual": True},
    "constant experts": {"zero_expert_type": "constant"},
}


def texts() -> list[list[int]]:
    generator = random.Random(5)
    return [[generator.randrange(97) for _ in range(length)] for length in LENGTHS]


def tables(order: str) -> list[list[int]]:
    pages = list(range(sum(-(-length // PAGE) for length in LENGTHS)))
    if order == "scattered":
        random.Random(3).shuffle(pages)
    return [[pages.pop(0) for _ in range(-(-length // PAGE))] for length in LENGTHS]


def computed(
    tiled: TiledModel, chunks: Sequence[int], order: str, rows: Sequence[int] = range(len(LENGTHS))
) -> dict[int, torch.Tensor]:
    """Logits of all positions of the texts `rows`; step i takes the next `chunks[i]` tokens of each."""
    cache = tiled.module.new_pages(60, PAGE)
    found: dict[int, list[torch.Tensor]] = {row: [] for row in rows}
    done = 0
    for count in chunks:
        going = [row for row in rows if LENGTHS[row] > done]
        pieces = []
        for row in going:
            ids = texts()[row]
            pieces.append(
                Piece(ids[done : done + count], done, tables(order)[row], len(ids[done : done + count]), ids[:done])
            )
        output = tiled.step(pieces, cache)
        for row, part in zip(going, output.logits_RV.split([len(piece.ids) for piece in pieces]), strict=True):
            found[row].append(part)
        done += count
    return {row: torch.cat(parts) for row, parts in found.items()}


CHUNKS = {"token by token": [1] * 41, "whole": [41], "sevens": [7] * 6, "uneven": [5, 2, 13, 1, 20], "eights": [8] * 6}


def assert_same(tiled: TiledModel) -> None:
    alone = {row: computed(tiled, [1] * LENGTHS[row], "consecutive", [row])[row] for row in range(len(LENGTHS))}
    for name, chunks in CHUNKS.items():
        for order in ("consecutive", "scattered"):
            for row, logits_TV in computed(tiled, chunks, order).items():
                assert torch.equal(logits_TV, alone[row]), (name, order, row)


@torch.no_grad()
@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_every_division_and_company_gives_the_same_bits(build_model: BuildModel, changes: dict[str, Any]) -> None:
    model = build_model(**changes)
    tiled = TiledModel(model)
    check_places(tiled)
    assert_same(tiled)
    whole = model(torch.tensor([texts()[0]])).logits[0]
    torch.testing.assert_close(computed(tiled, [41], "scattered", [0])[0], whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("weights", ["fp32", "fp16", "bf16", "int8", "int4"])
def test_packed_weights_do_too(build_model: BuildModel, weights: Any) -> None:
    if missing(weights) is not None:
        pytest.skip(f"this machine has no {weights}")
    model = build_model(hidden_size=72, ffn_hidden_size=104, expert_ffn_hidden_size=24)
    prepare(model, weights, chooser=AsAsked())
    tiled = TiledModel(model)
    check_places(tiled)
    assert_same(tiled)


@torch.no_grad()
def test_two_threads_do_too(build_model: BuildModel) -> None:
    """Elementwise loops are long enough to be divided between threads."""
    torch.set_num_threads(2)
    model = build_model(num_layers=1, hidden_size=40, ffn_hidden_size=8200, expert_ffn_hidden_size=2052)
    tiled = TiledModel(model)
    check_places(tiled)
    alone = computed(tiled, [1] * 9, "consecutive", [5])
    assert torch.equal(computed(tiled, [7, 2], "scattered", [1, 4, 5, 9])[5], alone[5])


@torch.no_grad()
def test_an_embedding_of_earlier_ids_is_cut_with_its_piece(build_model: BuildModel) -> None:
    model = build_model()
    model.model.embed_tokens = Trigram(model.model.embed_tokens)
    assert_same(TiledModel(model))


@torch.no_grad()
def test_routing_and_hidden_states_are_those_of_the_tokens(build_model: BuildModel) -> None:
    model = build_model()
    pieces = [Piece(texts()[row], 0, tables("scattered")[row], 0) for row in (0, 1, 4)]
    found = TiledModel(model).step(pieces, model.new_pages(60, PAGE))
    assert found.logits_RV.shape == (0, 97)
    assert found.hidden_TD.shape == (45, 32)
    expected = model(torch.tensor([texts()[1]])).routing
    for layer, alone in zip(found.routing, expected, strict=True):
        assert torch.equal(layer.experts_TK[41:44], alone.experts_TK)
        assert torch.equal(layer.counts_E, torch.bincount(layer.experts_TK.flatten(), minlength=8))
        assert layer.logits_TE.shape == (45, 8)
        assert layer.weights_TK.shape == (45, 3)


def test_pieces_are_cut_where_a_tile_ends() -> None:
    pieces = [Piece(list(range(5)), 2, [0, 1], 1, (8, 9)), Piece(list(range(10, 22)), 0, [2, 3, 4], 7)]
    assert list(tiles(pieces, 8)) == [
        [Piece([0, 1, 2, 3, 4], 2, [0, 1], 1, [8, 9]), Piece([10, 11, 12], 0, [2, 3, 4], 0)],
        [Piece(list(range(13, 21)), 3, [2, 3, 4], 6, [10, 11, 12])],
        [Piece([21], 11, [2, 3, 4], 1, list(range(10, 21)))],
    ]
    assert [len(tile) for tile in tiles([Piece([1], 0, [row]) for row in range(16)], 8)] == [8, 8]


class ByPlace(torch.nn.Module):
    """Rounds the last row differently, as a library may."""

    def __init__(self, norm: torch.nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        y_BTD: torch.Tensor = self.norm(x_BTD).clone()
        y_BTD[:, ROWS - 1] *= 1 + 2e-7
        return y_BTD


class ByCompany(ByPlace):
    """Rounds by the greatest value of all rows."""

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        y_BTD: torch.Tensor = self.norm(x_BTD)
        return y_BTD * (1 + 1e-5 * y_BTD.max())


@torch.no_grad()
@pytest.mark.parametrize("wrong", [ByPlace, ByCompany])
def test_a_module_that_depends_on_the_place_of_a_row_is_named(build_model: BuildModel, wrong: type[ByPlace]) -> None:
    model = build_model()
    layer = model.model.layers[1]
    layer.post_attention_layernorm[1] = wrong(layer.post_attention_layernorm[1])
    name = r"model\.layers\.1\.post_attention_layernorm\.1"
    with pytest.raises(ModelError, match=f"{name}.*a row depends on its place"):
        check_places(TiledModel(model))


def test_what_has_no_tiles_is_refused_by_name(build_model: BuildModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_window", "tests.model.variants:WindowAttention")
    monkeypatch.setitem(mixers.KINDS, "test_linear", "tests.model.variants:LinearMixer")
    for kind in ({"kind": "test_window", "size": 4}, "test_linear"):
        with pytest.raises(ModelError, match=r"attention 'test_.*' has no form for tiles"):
            TiledModel(build_model(attention=kind))
    with pytest.raises(ModelError, match="float32 on a CPU, this one is bfloat16 on cpu"):
        TiledModel(build_model().bfloat16())
    model = build_model()
    model.model.layers[0].mlp.experts = torch.nn.Identity()
    with pytest.raises(ModelError, match="experts of the kind Identity have no form for tiles"):
        TiledModel(model)


@torch.no_grad()
def test_a_wrong_step_is_refused_before_any_tile(build_model: BuildModel) -> None:
    model = build_model()
    cache = model.new_pages(4, PAGE)
    with pytest.raises(ModelError, match="two pieces of a step write to page 0"):
        TiledModel(model).step([Piece([1] * 8, 0, [0, 1]), Piece([1], 0, [0])], cache)
    with pytest.raises(ModelError, match="at least one piece"):
        TiledModel(model).step([], cache)


@torch.no_grad()
def test_the_model_itself_is_unchanged(build_model: BuildModel) -> None:
    model: LongcatFlash = build_model(num_nextn_predict_layers=1)
    ids_1T = torch.tensor([texts()[2]])
    before, modules = model(ids_1T).logits, {name: type(module) for name, module in model.named_modules()}
    tiled = TiledModel(model)
    check_places(tiled)
    assert torch.equal(model(ids_1T).logits, before)
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert tiled.module.model.layers[0].self_attn[0].o_proj.weight is model.model.layers[0].self_attn[0].o_proj.weight
