"""Latent attention to a window: against loops over positions, in memory of fixed size, and wrong options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.distributed as dist

from longcat.kernels.mla_attention import Window
from longcat.model.attention.base import SequenceContext
from longcat.model.attention.ring import Ring
from longcat.model.attention.window import WindowAttention
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.init import initialize
from longcat.model.step import Piece, StepBatch
from longcat.model.tiles.attention import tile_attention
from longcat.model.transformer import LongcatFlash
from tests.kernels.windows import positions

KINDS: dict[str, dict[str, Any]] = {
    "window": {"kind": "window", "size": 5},
    "sinks": {"kind": "window", "sinks": 3, "size": 5},
    "streaming": {"block": 4, "kind": "window", "sinks": 4, "size": 12},
    "more sinks than window": {"block": 2, "kind": "window", "sinks": 8, "size": 2},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def model(request: pytest.FixtureRequest, config: ModelConfig) -> LongcatFlash:
    built = LongcatFlash(ModelConfig(**{**config.model_dump(), "attention": request.param}))
    initialize(built, 3, {"hidden": 0.2, "router": 0.2, "embedding": 1.0, "unembedding": 0.3})
    return built


def mixer_of(model: LongcatFlash) -> WindowAttention:
    found: Any = model.model.layers[0].self_attn[0]
    assert isinstance(found, WindowAttention)
    return found


def by_loops(mixer: WindowAttention, x_1TD: torch.Tensor, bounds: list[int], where: SequenceContext) -> torch.Tensor:
    """Output of flattened documents, head by head and query by query."""
    projected = mixer.project(x_1TD, where)
    k_1SHQ, v_1SHV = mixer.expand(projected.latent_BTC, projected.k_rope_BTR)
    q_1THQ = torch.cat((projected.q_nope_BTHN, projected.q_rope_BTHR), dim=-1)
    outputs = []
    for start, end in itertools.pairwise(bounds):
        for query in range(end - start):
            seen = [start + j for j in positions(query, mixer.window)]
            heads = [
                (k_1SHQ[0, seen, head] @ q_1THQ[0, start + query, head] * mixer.softmax_scale).softmax(0)
                @ v_1SHV[0, seen, head]
                for head in range(mixer.heads)
            ]
            outputs.append(torch.cat(heads))
    return mixer.o_proj(torch.stack(outputs)).unsqueeze(0)


def test_outputs_and_gradients_equal_loops(model: LongcatFlash) -> None:
    """In float64, with ragged documents."""
    model, bounds = model.double(), [0, 3, 4, 21, 40]
    mixer = mixer_of(model)
    where = model.context(torch.zeros(1, 40, dtype=torch.int64), torch.tensor(bounds))
    x_1TD = torch.randn(1, 40, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    inputs, direction = [x_1TD, *mixer.parameters()], torch.randn(1, 40, model.config.hidden_size).double()
    found, expected = mixer(x_1TD, where).y_BTD, by_loops(mixer, x_1TD, bounds, where)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    both = [torch.autograd.grad(output, inputs, direction) for output in (found, expected)]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_batched_decoding_equals_the_forward_pass_in_single_precision(model: LongcatFlash) -> None:
    """Three sequences at different lengths, in rings that have gone round several times."""
    lengths, total = (1, 17, 30), 48
    ids = torch.randint(4, 97, (3, total), generator=torch.Generator().manual_seed(1))
    cache = model.new_pages(3 * total // 4, page_size=4, slots=4)
    pages = [list(range(row * total // 4, (row + 1) * total // 4)) for row in range(3)]
    for row, length in enumerate(lengths):
        piece = Piece(ids[row, :length].tolist(), 0, pages[row], 1, slot=3 - row)
        model.step(StepBatch.of([piece], 4), cache)
    found: list[list[torch.Tensor]] = [[], [], []]
    for step in range(18):
        pieces = [
            Piece([int(ids[row, length + step])], length + step, pages[row], 1, slot=3 - row)
            for row, length in enumerate(lengths)
        ]
        for row, logits_V in enumerate(model.step(StepBatch.of(pieces, 4), cache).logits_RV):
            found[row].append(logits_V)
    expected = model(ids).logits
    for row, length in enumerate(lengths):
        wanted = expected[row, length : length + 18]
        error = torch.linalg.vector_norm(torch.stack(found[row]) - wanted) / torch.linalg.vector_norm(wanted)
        assert error < 2e-6


def test_the_state_does_not_grow_with_the_sequence(model: LongcatFlash) -> None:
    mixer = mixer_of(model)
    window, width = mixer.window, mixer.latent_width + mixer.rope_width
    cache = model.new_pages(1000, page_size=4, slots=2)
    assert cache.bytes_per_page == 0
    assert cache.bytes_per_slot == 4 * 4 * (window.size + window.sinks) * width
    assert cache.nbytes == 2 * cache.bytes_per_slot
    assert mixer.state_values(1) == mixer.state_values(1 << 20) == (window.size + window.sinks) * width
    assert mixer.flops(1, 1 << 20) == 2 * len(positions(1 << 20, window)) * mixer._absorbed_width()


@pytest.mark.parametrize("window", [Window(5), Window(5, 3), Window(12, 4, 4), Window(2, 8, 2)], ids=str)
def test_a_ring_holds_what_later_queries_see(window: Window) -> None:
    """At every length, its places are distinct and hold all that any later query sees."""
    ring = Ring(window)
    for length in range(1, 40):
        held = ring.held(length)
        assert len({ring.place(position) for position in held}) == len(held) <= ring.capacity
        later = {j for query in range(length, length + 30) for j in positions(query, window) if j < length}
        assert later <= set(held)


def test_a_part_of_rows_has_the_windows_of_whole_rows(model: LongcatFlash, tmp_path: Any) -> None:
    """With one process, which holds both chunks of a row."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = model.double()
        mixer = mixer_of(model)
        x_BTD = torch.randn(2, 24, model.config.hidden_size, dtype=torch.float64)
        for bounds in (None, torch.tensor([0, 9, 24, 48])):
            where = model.context(torch.zeros(2, 24, dtype=torch.int64), bounds)
            assert dist.group.WORLD is not None
            shared = mixer.context_parallel(dist.group.WORLD)
            torch.testing.assert_close(shared(x_BTD, where).y_BTD, mixer(x_BTD, where).y_BTD, rtol=1e-10, atol=1e-10)
    finally:
        dist.destroy_process_group()


def test_tiles_refuse_windows(model: LongcatFlash) -> None:
    with pytest.raises(ModelError, match="attention 'window' has no form for tiles"):
        tile_attention(mixer_of(model))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"size": 0}, "window: size = 0: Input should be greater than or equal to 1"),
        ({"size": 6, "block": 4}, "window: .*block = 4 must divide size = 6 and sinks = 0"),
        ({"size": 8, "block": 4, "sinks": 2}, "block = 4 must divide size = 8 and sinks = 2"),
        ({"size": 250, "sinks": 7}, "attention window: size = 250 and sinks = 7 exceed max_position_embeddings = 256"),
    ],
)
def test_wrong_options_are_named(options: dict[str, int], reason: str, config: ModelConfig) -> None:
    with pytest.raises(ModelConfigError, match=reason):
        ModelConfig.from_dict({**config.to_dict(), "attention": {"kind": "window", **options}})
