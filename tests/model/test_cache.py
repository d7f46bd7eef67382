"""Prefill and decode through the cache equal the full forward pass."""

from collections.abc import Callable

import pytest
import torch

from longcat.model.attention import mla
from longcat.model.cache import LatentCache
from longcat.model.errors import ModelError
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
    input_ids_BT = torch.randint(0, 97, (2, 20))
    whole = model(input_ids_BT)
    cache = LatentCache(model.config, batch_size=2, max_length=20, dtype=torch.float64)
    outputs = [model(piece, cache=cache) for piece in input_ids_BT.split(pieces, dim=1)]
    assert cache.length == 20
    torch.testing.assert_close(torch.cat([out.logits for out in outputs], dim=1), whole.logits, rtol=1e-10, atol=1e-10)
    assert torch.equal(torch.stack([out.expert_counts_LE for out in outputs]).sum(0), whole.expert_counts_LE)


@torch.no_grad()
def test_a_long_text_equals_the_whole_in_float32(build_model: BuildModel) -> None:
    """Long enough for flash attention in the prefill and absorbed projections in the decode."""
    model = build_model()
    input_ids_BT = torch.randint(0, 97, (1, 540))
    whole = model(input_ids_BT).logits[:, 530:]
    cache = LatentCache(model.config, batch_size=1, max_length=540)
    model(input_ids_BT[:, :530], cache=cache)
    steps = [model(input_ids_BT[:, t : t + 1], cache=cache).logits for t in range(530, 540)]
    error = torch.linalg.vector_norm(torch.cat(steps, dim=1) - whole) / torch.linalg.vector_norm(whole)
    assert error < 1e-5


@torch.no_grad()
def test_a_prompt_is_expanded_and_a_token_is_absorbed(build_model: BuildModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is the cheaper way; the other one would give the same numbers and take many times as long."""
    calls: list[str] = []
    for name in ("mla_attention", "mla_decode"):
        original = getattr(mla, name)

        def recorded(*tensors: object, name: str = name, original: Callable[..., object] = original) -> object:
            calls.append(name)
            return original(*tensors)

        monkeypatch.setattr(mla, name, recorded)
    model = build_model()
    cache = LatentCache(model.config, batch_size=1, max_length=64)
    model(torch.zeros(1, 63, dtype=torch.int64), cache=cache)
    assert calls == ["mla_attention"] * 4
    calls.clear()
    model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)
    assert calls == ["mla_decode"] * 4


@torch.no_grad()
def test_truncated_positions_are_forgotten(build_model: BuildModel) -> None:
    model = build_model()
    input_ids_BT = torch.randint(0, 97, (1, 9))
    cache = LatentCache(model.config, batch_size=1, max_length=9)
    model(torch.cat((input_ids_BT[:, :6], input_ids_BT[:, :3]), dim=1), cache=cache)
    cache.truncate(6)
    continued = model(input_ids_BT[:, 6:], cache=cache).logits
    torch.testing.assert_close(continued, model(input_ids_BT).logits[:, 6:], rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="cannot truncate a cache of 9 positions to 10"):
        cache.truncate(10)


def test_wrong_uses_are_refused(build_model: BuildModel) -> None:
    model = build_model()
    cache = LatentCache(model.config, batch_size=1, max_length=4)
    with pytest.raises(ModelError, match="no gradients"):
        model(torch.zeros(1, 1, dtype=torch.int64), cache=cache)
    with torch.no_grad():
        with pytest.raises(ModelError, match="0 of at most 4 positions, 5 more do not fit"):
            model(torch.zeros(1, 5, dtype=torch.int64), cache=cache)
        with pytest.raises(ModelError, match="made for a batch of 1, the input has 2"):
            model(torch.zeros(2, 1, dtype=torch.int64), cache=cache)
        with pytest.raises(ModelError, match="either cache or cu_seqlens"):
            model(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([0, 2]), cache=cache)
    assert cache.length == 0


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 3, 9, 20])
def test_logits_of_the_last_tokens_alone(keep: int, build_model: BuildModel) -> None:
    model = build_model()
    tokens = torch.arange(18).view(2, 9)
    whole, last = model(tokens), model(tokens, logits_to_keep=keep)
    torch.testing.assert_close(last.logits, whole.logits[:, -min(keep, 9) :])
    assert torch.equal(last.hidden_BTD, whole.hidden_BTD)
