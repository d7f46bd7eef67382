"""Mixers with several states, and what the first attention module of a layer leaves to the second."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from longcat.model import mixers
from longcat.model.attention.base import MixerOutput, SequenceContext
from longcat.model.attention.mla import MultiHeadLatentAttention
from longcat.model.attention.options import MixerOptions
from longcat.model.attention.pages import PageState, PerPosition, PerSequence, Several, SlotState, StateKind, StepState
from longcat.model.config import ModelConfig
from longcat.model.errors import ModelError
from longcat.model.init import initialize
from longcat.model.paged_cache import PagedCache
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

CPU = torch.device("cpu")


class Counting(MultiHeadLatentAttention):
    """Latent attention that also keeps its inputs; the second of a layer adds the first one's mean input."""

    kind: ClassVar[str] = "test_counting"

    def __init__(self, config: ModelConfig, slot: int, options: MixerOptions) -> None:
        super().__init__(config, slot, options)
        self.width = config.hidden_size

    def state_kind(self) -> StateKind:
        return Several((super().state_kind(), PerPosition(self.width)))

    def forward(self, x_BTD: torch.Tensor, where: SequenceContext, state: StepState | None = None) -> MixerOutput:
        seen_BTD = x_BTD
        latents = state
        if isinstance(state, tuple):
            latents, inputs = state
            assert isinstance(inputs, PageState)
            assert where.layout is not None
            inputs.store(where.layout, x_BTD[0])
            seen_BTD = torch.cat([inputs.read(where.layout, index) for index in range(len(where.layout.spans))])[None]
        y_BTD = super().forward(x_BTD, where, latents).y_BTD
        kept_BTD = seen_BTD.cumsum(1)[:, -x_BTD.shape[1] :]
        return MixerOutput(y_BTD if where.shared is None else y_BTD + where.shared, shared=kept_BTD)


@torch.no_grad()
@pytest.mark.parametrize("layout", ["shortcut", "interleaved", "span", "post"])
def test_a_mixer_with_two_states_decodes_as_the_forward_pass(
    layout: str, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mixers.KINDS, "test_counting", "tests.model.test_several_states:Counting")
    changes = {"attention": "test_counting", "num_nextn_predict_layers": 0, "moe_layout": layout}
    model = LongcatFlash(ModelConfig(**{**config.model_dump(), **changes}))
    initialize(model, 3)
    model = model.double()
    ids_BT = torch.randint(4, config.vocab_size, (1, 12), generator=torch.Generator().manual_seed(1))
    rows = Rows(model, 1, 12, page_size=4)
    for piece in ids_BT[:, :9].split([5, 1, 3], dim=1):
        rows.append(piece)
    rows.rewind(6)
    found = rows.append(ids_BT[:, 6:]).logits
    torch.testing.assert_close(found, model(ids_BT).logits[:, 6:], rtol=1e-10, atol=1e-10)


def test_states_are_given_in_the_order_of_their_kinds_and_copied_together() -> None:
    kinds = [Several((PerPosition(4), PerPosition(3, every=2), PerSequence((5,)))), PerPosition(4)]
    cache = PagedCache(kinds, [], 3, 8, 2, torch.float32, CPU)
    first, second = cache.layer_states
    assert isinstance(first, tuple)
    assert isinstance(second, PageState)
    latents, summaries, slots = first
    assert isinstance(latents, PageState)
    assert isinstance(summaries, PageState)
    assert isinstance(slots, SlotState)
    shapes = [latents.pages_PLW.shape, summaries.pages_PLW.shape, slots.values.shape, second.pages_PLW.shape]
    assert shapes == [(3, 8, 4), (3, 4, 3), (2, 5), (3, 8, 4)]
    assert cache.bytes_per_page == 4 * (8 * 4 * 2 + 4 * 3)
    assert cache.recurrent
    for pages in (latents.pages_PLW, summaries.pages_PLW, second.pages_PLW):
        pages[1] = 7
    cache.copy(1, 2)
    assert all((pages[2] == 7).all() for pages in (latents.pages_PLW, summaries.pages_PLW, second.pages_PLW))


def test_pages_that_do_not_hold_whole_summaries_are_refused() -> None:
    with pytest.raises(ModelError, match="make page_size a multiple of 8"):
        PagedCache([Several((PerPosition(4), PerPosition(3, every=8)))], [], 3, 12, 0, torch.float32, CPU)
