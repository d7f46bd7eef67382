"""The same weights give the same logits as the implementations in transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.cache import LatentCache
from model.checkpoint import load_pretrained, save_pretrained
from model.layout import published_tensors
from model.transformer import LongcatFlash


def relative_rms(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(result - expected) / torch.linalg.vector_norm(expected))


@pytest.fixture
def golden(shared_data: Path) -> Path:
    """A checkpoint that transformers 4.57.1 wrote in the published layout, and what it computes."""
    folder = shared_data / "hf_golden"
    if not folder.is_dir():
        pytest.skip(f"no checkpoint to compare with at {folder}")
    return folder


@torch.no_grad()
def test_golden_checkpoint_gives_its_logits_and_its_continuation(golden: Path) -> None:
    model, expected = load_pretrained(golden), load_file(golden / "expected.safetensors")
    assert relative_rms(model(expected["input_ids"]).logits, expected["logits"]) < 1e-5
    tokens, length = expected["prompt"], expected["greedy"].shape[1]
    cache = LatentCache(model.config, batch_size=1, max_length=length)
    following = tokens
    while tokens.shape[1] < length:
        following = model(following, cache=cache).logits[:, -1:].argmax(-1)
        tokens = torch.cat((tokens, following), dim=1)
    assert torch.equal(tokens, expected["greedy"])


def test_golden_checkpoint_is_written_back_byte_for_byte(golden: Path, tmp_path: Path) -> None:
    save_pretrained(load_pretrained(golden), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == (golden / "model.safetensors").read_bytes()


@pytest.fixture
def peer() -> Callable[[LongcatFlash], Any]:
    """Build the model of transformers with the same configuration and weights."""
    transformers = pytest.importorskip("transformers", minversion="5.0")

    def build(model: LongcatFlash) -> Any:
        config = transformers.LongcatFlashConfig(**model.config.to_dict())
        config._attn_implementation = "eager"
        peer = transformers.LongcatFlashForCausalLM(config).to(next(model.parameters()).dtype)
        state = dict(model.state_dict())
        for key in [key for key in state if key.endswith("gate_up_proj")]:
            # This version keeps rows for the experts without computation, and never reads them.
            idle = state[key].new_zeros(model.config.zero_expert_num, *state[key].shape[1:])
            state[key] = torch.cat((state[key], idle))
        peer.load_state_dict(state)
        return peer

    return build


@pytest.mark.parametrize("zero_experts", [3, 0])
def test_logits_and_gradients_are_those_of_transformers(
    zero_experts: int, build_model: Callable[..., LongcatFlash], peer: Callable[[LongcatFlash], Any]
) -> None:
    model = build_model(zero_expert_num=zero_experts)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_a_proj" in name:  # latents so small that the constant under the root of their norms matters
                parameter[: model.config.kv_lora_rank].mul_(1e-2)
    other = peer(model)
    input_ids_BT = torch.randint(0, model.config.vocab_size, (2, 19))
    logits, expected = model(input_ids_BT).logits, other(input_ids_BT).logits
    assert relative_rms(logits.detach(), expected.detach()) < 1e-5
    direction = torch.randn_like(logits)
    logits.backward(direction)
    expected.backward(direction)
    gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        theirs = gradients[name][: parameter.shape[0]]
        if name == "model.embed_tokens.weight":  # transformers never trains the padding token
            parameter.grad[model.config.pad_token_id] = 0
        assert relative_rms(parameter.grad, theirs) < 1e-4, name


def test_transformers_reads_the_configuration_as_it_is_meant(build_model: Callable[..., LongcatFlash]) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    model = build_model()
    theirs = transformers.LongcatFlashConfig(**model.config.to_dict())
    ours = model.config
    assert theirs.num_hidden_layers == 2 * ours.num_layers
    assert theirs.head_dim == ours.qk_rope_head_dim
    assert theirs.rope_parameters["rope_theta"] == ours.rope_theta
    assert theirs.rms_norm_eps == ours.rms_norm_eps
    assert dict(published_tensors(model)).keys() >= {"lm_head.weight", "model.norm.weight"}
