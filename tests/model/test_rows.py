"""Rows in pages: decoding in pieces equals the forward pass, rewinding drops positions, and what is refused."""

from collections.abc import Callable

import pytest
import torch

from longcat.model.attention import mla, paged_mla
from longcat.model.attention.pages import Span
from longcat.model.errors import ModelError
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 20, [13, 1, 1, 5], [7, 13], [20]])
@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_pieces_equal_the_whole(
    pieces: list[int], kernels: str, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGCAT_KERNELS", kernels)
    model = build_model().double()
    ids_BT = torch.randint(0, 97, (2, 20))
    whole = model(ids_BT)
    rows = Rows(model, 2, 20, page_size=8)
    outputs = [rows.append(piece) for piece in ids_BT.split(pieces, dim=1)]
    assert rows.length == 20
    torch.testing.assert_close(torch.cat([out.logits for out in outputs], dim=1), whole.logits, rtol=1e-10, atol=1e-10)
    hidden_BTD = torch.cat([out.hidden_BTD for out in outputs], dim=1)
    torch.testing.assert_close(hidden_BTD, whole.hidden_BTD, rtol=1e-10, atol=1e-10)
    counts_LE = [torch.stack([layer.counts_E for layer in out.routing]) for out in outputs]
    assert torch.equal(torch.stack(counts_LE).sum(0), whole.expert_counts_LE)


@torch.no_grad()
def test_a_long_text_equals_the_whole_in_float32(build_model: BuildModel) -> None:
    """Long enough for flash attention in prefill and absorbed projections in decode."""
    model = build_model()
    ids_BT = torch.randint(0, 97, (1, 540))
    whole = model(ids_BT).logits[:, 530:]
    rows = Rows(model, 1, 540)
    assert rows.append(ids_BT[:, :530], logits_to_keep=1).logits.shape == (1, 1, 97)
    steps = [rows.append(ids_BT[:, t : t + 1]).logits for t in range(530, 540)]
    error = torch.linalg.vector_norm(torch.cat(steps, dim=1) - whole) / torch.linalg.vector_norm(whole)
    assert error < 1e-5


@torch.no_grad()
def test_a_prompt_is_expanded_and_a_token_is_absorbed(build_model: BuildModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the cheaper path; the other one would give the same numbers many times slower."""
    calls: list[str] = []
    for module, name in ((mla, "mla_attention"), (paged_mla, "mla_paged_decode")):
        original = getattr(module, name)

        def recorded(*tensors: object, name: str = name, original: Callable[..., object] = original) -> object:
            calls.append(name)
            return original(*tensors)

        monkeypatch.setattr(module, name, recorded)
    rows = Rows(build_model(), 1, 64)
    rows.append(torch.zeros(1, 63, dtype=torch.int64))
    assert calls == ["mla_attention"] * 4
    calls.clear()
    rows.append(torch.zeros(1, 1, dtype=torch.int64))
    assert calls == ["mla_paged_decode"] * 4


@torch.no_grad()
def test_truncated_positions_have_no_effect(build_model: BuildModel) -> None:
    model = build_model()
    ids_BT = torch.randint(0, 97, (1, 9))
    rows = Rows(model, 1, 9)
    rows.append(torch.cat((ids_BT[:, :6], ids_BT[:, :3]), dim=1))
    assert rows.rewind(6) == 6
    continued = rows.append(ids_BT[:, 6:]).logits
    torch.testing.assert_close(continued, model(ids_BT).logits[:, 6:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="cannot rewind rows of 9 positions to 10"):
        rows.rewind(10)


def test_wrong_calls_are_refused(build_model: BuildModel) -> None:
    rows = Rows(build_model(), 1, 4)
    with pytest.raises(ModelError, match="does not support gradients"):
        rows.append(torch.zeros(1, 1, dtype=torch.int64))
    with torch.no_grad():
        with pytest.raises(ModelError, match="0 of at most 4 positions, 5 more do not fit"):
            rows.append(torch.zeros(1, 5, dtype=torch.int64))
        with pytest.raises(ModelError, match="made for 1 rows, the input has 2"):
            rows.append(torch.zeros(2, 1, dtype=torch.int64))
    assert rows.length == 0


@torch.no_grad()
def test_absorbing_always_makes_the_products_of_a_prompt_those_of_single_tokens(build_model: BuildModel) -> None:
    """The same numbers from the other path, chosen by a switch on the attention modules."""
    model = build_model().double()
    ids_BT = torch.randint(0, 97, (2, 40))
    expected = model(ids_BT).logits
    mixers = [mixer for layer in model.model.layers for mixer in layer.self_attn]
    for mixer in mixers:
        assert not mixer.absorbs(Span(0, 40, 0, 0))
        mixer.absorbs_always = True
        assert mixer.absorbs(Span(0, 40, 0, 0))
    torch.testing.assert_close(Rows(model, 2, 40).append(ids_BT).logits, expected, rtol=1e-10, atol=1e-10)
