"""Native sparse attention on latents, against loops over queries, heads and blocks, and its wrong options."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from longcat.model.attention.base import SequenceContext
from longcat.model.attention.nsa import NativeSparseAttention
from longcat.model.attention.nsa_choice import choose, overlaps
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError, ModelError
from longcat.model.init import initialize
from longcat.model.step import Piece, StepBatch
from longcat.model.transformer import LongcatFlash

SMALL = {"kind": "nsa", "compress_size": 4, "compress_stride": 2, "block": 4, "top_n": 3, "local_blocks": 1}
KINDS: dict[str, dict[str, Any]] = {
    "all branches": {"window": 5, "query_group": 2},
    "choice of every query": {"window": 5, "query_group": 1, "local_blocks": 2, "initial_blocks": 0},
    "softmax, a choice by head": {"window": 3, "query_group": 4, "gate": "softmax", "head_groups": 3},
    "greatest of two heads": {"window": 3, "heads": 4, "head_groups": 2, "group_scores": "max", "query_group": 4},
    "global": {"window": 5, "branches": "110", "query_group": 4},
    "selected alone": {"window": 5, "branches": "010", "query_group": 4},
    "window alone": {"window": 5, "branches": "001", "query_group": 4},
    "grouped latents": {"window": 5, "heads": 4, "latents": 2, "head_groups": 2, "query_group": 2},
    "wide blocks": {"window": 5, "compress_size": 6, "block": 8, "top_n": 2, "query_group": 2},
}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def model(request: pytest.FixtureRequest, config: ModelConfig) -> LongcatFlash:
    options = {**SMALL, **request.param}
    changes = {"num_attention_heads": options.pop("heads", 3), "attention": options}
    built = LongcatFlash(ModelConfig(**{**config.model_dump(), **changes}))
    initialize(built, 3, {"hidden": 0.2, "router": 0.2, "embedding": 1.0, "unembedding": 0.3, "vector": 0.2})
    return built


def mixer_of(model: LongcatFlash) -> NativeSparseAttention:
    found: Any = model.model.layers[0].self_attn[0]
    assert isinstance(found, NativeSparseAttention)
    return found


class Loops:
    """The equations for one document, block by block and query by query; nothing is absorbed."""

    def __init__(self, mixer: NativeSparseAttention, tensors: tuple[torch.Tensor, ...]) -> None:
        self.mixer, self.options = mixer, mixer.options
        self.q_nope, self.q_rope, self.latent, self.rope, self.angles = tensors
        self.blocks: list[tuple[torch.Tensor, torch.Tensor]] = []
        size, stride = self.options.compress_size, self.options.compress_stride
        while len(self.blocks) * stride + size <= len(self.latent):
            first = len(self.blocks) * stride
            self.blocks.append(self.block(range(first, first + size)))

    def block(self, places: range) -> tuple[torch.Tensor, torch.Tensor]:
        of_latent = (self.mixer.compress_latent.weight @ self.latent[places].flatten()).softmax(0)
        back = torch.polar(torch.ones_like(self.angles[0]), -self.angles[places[-1]])
        turned = [torch.view_as_real(torch.view_as_complex(self.rope[p].view(-1, 2)) * back).flatten() for p in places]
        of_rope = (self.mixer.compress_rope.weight @ torch.cat(turned)).softmax(0)
        latent = sum(w * self.latent[p] for w, p in zip(of_latent, places, strict=True))
        rope = sum(w * self.rope[p] for w, p in zip(of_rope, places, strict=True))
        assert isinstance(latent, torch.Tensor)
        assert isinstance(rope, torch.Tensor)
        return latent, rope

    def pair(self, head: int, latent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Key without position, and value."""
        mixer, groups = self.mixer, self.options.latents
        part = latent.chunk(groups)[head * groups // mixer.heads]
        rows = mixer.kv_b_proj.weight.view(mixer.heads, -1, part.shape[0])[head]
        key, value = (rows @ part).split((mixer.nope_width, mixer.value_width))
        return key, value

    def attend(
        self, query: int, head: int, seen: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and output."""
        pairs = [self.pair(head, latent) for latent, _ in seen]
        scores = [
            self.q_nope[query, head] @ key + self.q_rope[query, head] @ rope
            for (key, _), (_, rope) in zip(pairs, seen, strict=True)
        ]
        p = (torch.stack(scores) * self.mixer.softmax_scale).softmax(0)
        return p, p @ torch.stack([value for _, value in pairs])

    def visible(self, query: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        size, stride = self.options.compress_size, self.options.compress_stride
        return [block for i, block in enumerate(self.blocks) if i * stride + size - 1 <= query]

    def chosen(self, query: int, head: int) -> list[int]:
        """Positions of the selected branch."""
        options = self.options
        first = query // options.query_group * options.query_group
        per_group = self.mixer.heads // options.head_groups
        heads = range(head // per_group * per_group, (head // per_group + 1) * per_group)
        visible = self.visible(first)
        by_head = [self.attend(first, h, visible)[0].tolist() if visible else [] for h in heads]
        combine = sum if options.group_scores == "sum" else max
        scores = [0.0] * (first // options.block + 1)
        for j in range(len(scores)):
            own = set(range(j * options.block, (j + 1) * options.block))
            for i in range(len(visible)):
                start = i * options.compress_stride
                shared = len(own & set(range(start, start + options.compress_size)))
                scores[j] += combine(p[i] for p in by_head) * shared / options.compress_stride
            if j < options.initial_blocks or j >= len(scores) - options.local_blocks:
                scores[j] = float("inf")
        order = sorted(range(len(scores)), key=lambda j: (-scores[j], j))[: options.top_n]
        return [p for j in sorted(order) for p in range(j * options.block, (j + 1) * options.block) if p <= query]

    def output(self) -> torch.Tensor:
        positions = list(zip(self.latent, self.rope, strict=True))
        rows = []
        for query, head in itertools.product(range(len(self.latent)), range(self.mixer.heads)):
            branches = []
            if self.options.branches[0] == "1":
                visible = self.visible(query)
                zero = self.latent.new_zeros(self.mixer.value_width)
                branches.append(self.attend(query, head, visible)[1] if visible else zero)
            if self.options.branches[1] == "1":
                branches.append(self.attend(query, head, [positions[p] for p in self.chosen(query, head)])[1])
            if self.options.branches[2] == "1":
                near = positions[max(0, query + 1 - self.options.window) : query + 1]
                branches.append(self.attend(query, head, near)[1])
            logits = self.mixer.gate[head] @ torch.cat(branches)
            gates = logits.sigmoid() if self.options.gate == "sigmoid" else logits.softmax(0)
            rows.append(sum(g * o for g, o in zip(gates, branches, strict=True)))
        return torch.stack(rows).view(len(self.latent), -1)


def by_loops(
    mixer: NativeSparseAttention, x_1TD: torch.Tensor, bounds: list[int], where: SequenceContext
) -> torch.Tensor:
    tensors = [*(x[0] for x in mixer.project(x_1TD, where)), where.angles[mixer.rope_width]]
    documents = [Loops(mixer, tuple(x[a:b] for x in tensors)).output() for a, b in itertools.pairwise(bounds)]
    return mixer.o_proj(torch.cat(documents)).unsqueeze(0)


def test_outputs_and_gradients_equal_loops(model: LongcatFlash) -> None:
    """In float64, with ragged documents, of which some have no complete block."""
    model, bounds = model.double(), [0, 3, 4, 10, 24]
    mixer = mixer_of(model)
    where = model.context(torch.zeros(1, 24, dtype=torch.int64), torch.tensor(bounds))
    x_1TD = torch.randn(1, 24, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    inputs, direction = [x_1TD, *mixer.parameters()], torch.randn(1, 24, model.config.hidden_size).double()
    found = mixer(x_1TD, where).y_BTD
    if mixer.options.branches == "001":
        mixer.compress_latent = mixer.compress_rope = torch.nn.Linear(1, 1)  # not used, and blocks are not asked for
        mixer.options = mixer.options.model_copy(update={"compress_size": 1 << 20})
    expected = by_loops(mixer, x_1TD, bounds, where)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    both = [
        torch.autograd.grad(output, inputs, direction, allow_unused=True, materialize_grads=True)
        for output in (found, expected)
    ]
    for one, other in zip(*both, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_tiles_of_queries_change_nothing(model: LongcatFlash, monkeypatch: pytest.MonkeyPatch) -> None:
    mixer = mixer_of(model.double())
    where = model.context(torch.zeros(2, 40, dtype=torch.int64))
    x_BTD = torch.randn(2, 40, model.config.hidden_size, dtype=torch.float64, requires_grad=True)
    results = []
    for values in (1 << 22, 150):
        monkeypatch.setattr("longcat.model.attention.nsa.TILE_VALUES", values)
        y_BTD = mixer(x_BTD, where).y_BTD
        gradients = torch.autograd.grad(
            y_BTD.square().sum(), [x_BTD, *mixer.parameters()], allow_unused=True, materialize_grads=True
        )
        results.append((y_BTD.detach(), *gradients))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batched_decoding_equals_the_forward_pass(model: LongcatFlash, dtype: torch.dtype) -> None:
    """Sequences of other lengths in one step; in bfloat16 the numbers of chosen blocks are exact."""
    if dtype == torch.bfloat16 and mixer_of(model).options.branches != "010":
        pytest.skip("one kind shows how numbers are kept")
    model = model.to(dtype)
    ids = torch.randint(4, 97, (3, 44), generator=torch.Generator().manual_seed(1))
    cache = model.new_pages(18, page_size=8)
    pages = [list(range(row, 18, 3)) for row in range(3)]
    found: list[list[torch.Tensor]] = [[], [], []]
    starts = [0, 0, 0]
    for counts in ((7, 1, 13), *((1, 1, 1),) * 5, (9, 3, 2)):
        pieces = []
        for row, count in enumerate(counts):
            end = starts[row] + count
            pieces.append(Piece(ids[row, starts[row] : end].tolist(), starts[row], pages[row], count))
            starts[row] = end
        logits = model.step(StepBatch.of(pieces, 8), cache).logits_RV.split(list(counts))
        for row, part in enumerate(logits):
            found[row].append(part)
    expected = model(ids).logits
    for row, end in enumerate(starts):
        wanted = expected[row, :end].double()
        error = torch.linalg.vector_norm(torch.cat(found[row]).double() - wanted) / torch.linalg.vector_norm(wanted)
        assert error < (2e-6 if dtype == torch.float32 else 0.1)


def test_blocks_are_chosen_by_shared_positions_and_lowest_first() -> None:
    shared = overlaps(5, 3, 4, 2, 4)
    assert shared.T.tolist() == [[2, 1, 0, 0, 0], [0, 1, 2, 1, 0], [0, 0, 0, 1, 2]]
    scores = torch.tensor([[[0.1, 0.5, 0.5, 0.5, 0.2, 9.0]]])
    assert choose(scores, torch.tensor([19]), 4, 4, 1, 1).tolist() == [[[0, 1, 2, 4]]]
    assert choose(scores, torch.tensor([7]), 4, 4, 1, 1).tolist() == [[[0, 1, -1, -1]]]
    assert choose(scores, torch.tensor([19]), 4, 2, 0, 1).tolist() == [[[1, 4]]]


def test_the_state_has_blocks_as_they_are_completed(model: LongcatFlash) -> None:
    mixer, options = mixer_of(model), mixer_of(model).options
    width = mixer.latent_width + mixer.rope_width
    expected = 48 * width
    if options.branches != "001":
        expected += 48 // options.compress_stride * width
    if options.selects:
        expected += 48 // options.query_group * options.head_groups * options.top_n
    assert mixer.state_values(48) == expected
    cache = model.new_pages(6, page_size=8)
    assert not cache.recurrent
    modules = 2 * model.config.num_layers
    assert cache.bytes_per_page * 6 == 4 * modules * expected
    if options.compress_stride > 1 and options.branches != "001":
        with pytest.raises(ModelError, match="page_size a multiple of"):
            model.new_pages(6, page_size=3)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"compress_stride": 3}, "compress_stride = 3 must divide compress_size = 4"),
        ({"block": 5}, "compress_stride = 2 must divide block = 5"),
        ({"query_group": 3}, "query_group = 3 must divide block = 4"),
        ({"branches": "000"}, "switches all branches off"),
        ({"branches": "21"}, "nsa: branches"),
        ({"top_n": 1}, "initial_blocks = 1 and local_blocks = 1 exceed top_n = 1"),
        ({"top_n": 65}, "attention nsa: top_n = 65 exceeds the 64 blocks of block = 4 positions"),
        ({"window": 257}, "window = 257 exceeds max_position_embeddings = 256"),
        ({"head_groups": 2}, "head_groups = 2 does not divide num_attention_heads = 3"),
        ({"latents": 3}, "latents = 3 does not divide kv_lora_rank = 16"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], reason: str, config: ModelConfig) -> None:
    given = {**SMALL, "window": 5, "query_group": 2, **options}
    with pytest.raises(ModelConfigError, match=reason):
        ModelConfig.from_dict({**config.to_dict(), "attention": given})
