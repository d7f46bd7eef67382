"""Equal weights give the same logits as the implementations in transformers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.layout import published_tensors
from longcat.model.rope import rope_angles_at
from longcat.model.rope_scaling import RopeScaling
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash


def relative_rms(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(result - expected) / torch.linalg.vector_norm(expected))


@torch.no_grad()
def test_golden_checkpoint_gives_its_logits_and_its_continuation(golden: Path) -> None:
    model, expected = load_pretrained(golden), load_file(golden / "expected.safetensors")
    assert relative_rms(model(expected["input_ids"]).logits, expected["logits"]) < 1e-5
    tokens, length = expected["prompt"], expected["greedy"].shape[1]
    rows = Rows(model, 1, length)
    following = tokens
    while tokens.shape[1] < length:
        following = rows.append(following, logits_to_keep=1).logits.argmax(-1)
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
            # This version has rows for zero-computation experts, and never reads them.
            idle = state[key].new_zeros(model.config.zero_expert_num, *state[key].shape[1:])
            state[key] = torch.cat((state[key], idle))
        peer.load_state_dict(state)
        return peer

    return build


@torch.no_grad()
def test_the_installed_transformers_gives_the_golden_logits(golden: Path, peer: Callable[[LongcatFlash], Any]) -> None:
    """So versions 4.57.1 and 5 agree, and no test depends on only one of them."""
    expected = load_file(golden / "expected.safetensors")
    assert relative_rms(peer(load_pretrained(golden))(expected["input_ids"]).logits, expected["logits"]) < 1e-5


YARN = {"original_max_position_embeddings": 16, "mscale": 0.7, "mscale_all_dim": 0.7}


@torch.no_grad()
def test_yarn_equals_transformers(
    build_model: Callable[..., LongcatFlash], peer: Callable[[LongcatFlash], Any]
) -> None:
    """Also beyond the original context, and in steps over pages."""
    scaled = build_model(
        rope_scaling=RopeScaling(factor=4.0, **YARN), rope_theta=100.0, max_position_embeddings=64, qk_rope_head_dim=8
    )
    tokens = torch.randint(0, scaled.config.vocab_size, (1, 60), generator=torch.Generator().manual_seed(0))
    expected = peer(scaled)(tokens).logits
    assert relative_rms(scaled(tokens).logits, expected) < 1e-5
    rows = Rows(scaled, 1, 60)
    in_steps = [rows.append(part).logits for part in tokens.split(7, dim=1)]
    assert relative_rms(torch.cat(in_steps, dim=1), expected) < 1e-5


def test_yarn_frequencies_and_scale() -> None:
    """By hand, 16 wide at base 10 with 63 positions before: pair 8 lg(63 / 2 pi n) turns n times."""
    scaling = RopeScaling(factor=4.0, original_max_position_embeddings=63, beta_fast=10.0)
    # 8 lg(1.0027) = 0.009 rounds down to pair 0, 8 lg(10.027) = 8.009 up to pair 9.
    expected = [1 - pair / 9 * 0.75 for pair in range(8)]
    assert scaling.slowed(16, 10.0) == pytest.approx(expected, abs=1e-12)
    assert scaling.logit_scale == pytest.approx(1.13862943611**2, abs=1e-10)  # 0.1 ln 4 + 1
    angles = rope_angles_at(torch.tensor([3]), 16, 10.0, scaling)
    assert angles[0].tolist() == pytest.approx([3 * 10 ** (-pair / 8) * expected[pair] for pair in range(8)], abs=1e-12)


@pytest.mark.parametrize("zero_experts", [3, 0])
def test_logits_and_gradients_equal_transformers(
    zero_experts: int, build_model: Callable[..., LongcatFlash], peer: Callable[[LongcatFlash], Any]
) -> None:
    model = build_model(zero_expert_num=zero_experts)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "_a_proj" in name:  # latents so small that the epsilon of their norms matters
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


def random_sizes(seed: int) -> dict[str, Any]:
    """Random configuration of 1 to 4 layers, also with odd sizes; every second one has no zero experts."""
    generator = torch.Generator().manual_seed(seed)

    def pick(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    # With one expert per token, or a single expert, transformers 5 fails with a shape error.
    experts, idle = pick(2, 9), pick(1, 6) if seed % 2 else 0
    return {
        "vocab_size": pick(50, 130),
        "hidden_size": pick(5, 67),
        "num_layers": 1 + seed // 2 % 4,
        "num_attention_heads": pick(1, 5),
        "ffn_hidden_size": pick(1, 90),
        "expert_ffn_hidden_size": pick(1, 33),
        "n_routed_experts": experts,
        "zero_expert_num": idle,
        "moe_topk": pick(2, experts + idle),
        "q_lora_rank": pick(1, 40),
        "kv_lora_rank": pick(1, 40),
        "qk_nope_head_dim": pick(1, 19),
        "qk_rope_head_dim": 2 * pick(1, 9),
        "v_head_dim": pick(1, 21),
        "routed_scaling_factor": 0.5 + pick(0, 8),
        "rope_theta": 10.0 ** pick(3, 7),
        "rms_norm_eps": 10.0 ** -pick(4, 7),
    }


@torch.no_grad()
@pytest.mark.parametrize("seed", range(16))
def test_random_models_equal_transformers(
    seed: int, build_model: Callable[..., LongcatFlash], peer: Callable[[LongcatFlash], Any]
) -> None:
    """Logits of a batch, and eight greedy tokens, ours with the cache."""
    model = build_model(seed, **random_sizes(seed))
    other = peer(model)
    input_ids_BT = torch.randint(0, model.config.vocab_size, (2, 1 + 5 * seed))
    assert relative_rms(model(input_ids_BT).logits, other(input_ids_BT).logits) < 1e-5
    rows = Rows(model, 2, 96)
    ours = theirs = following = input_ids_BT
    for _ in range(8):
        following = rows.append(following, logits_to_keep=1).logits.argmax(-1)
        ours = torch.cat((ours, following), dim=1)
        theirs = torch.cat((theirs, other(theirs).logits[:, -1:].argmax(-1)), dim=1)
    assert torch.equal(ours, theirs)


def test_random_models_cover_the_intended_sizes() -> None:
    configs = [ModelConfig(**random_sizes(seed)) for seed in range(16)]
    kinds = {(config.num_layers, config.zero_expert_num == 0) for config in configs}
    assert kinds == {(layers, without) for layers in (1, 2, 3, 4) for without in (False, True)}
    assert {config.hidden_size % 2 for config in configs} == {0, 1}


def test_transformers_reads_the_same_configuration(build_model: Callable[..., LongcatFlash]) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    model = build_model()
    theirs = transformers.LongcatFlashConfig(**model.config.to_dict())
    ours = model.config
    assert theirs.num_hidden_layers == 2 * ours.num_layers
    assert theirs.head_dim == ours.qk_rope_head_dim
    assert theirs.rope_parameters["rope_theta"] == ours.rope_theta
    assert theirs.rms_norm_eps == ours.rms_norm_eps
    assert dict(published_tensors(model)).keys() >= {"lm_head.weight", "model.norm.weight"}


@torch.no_grad()
@pytest.mark.parametrize("keep", [1, 3, 9, 20])
def test_logits_of_only_the_last_tokens(keep: int, build_model: Callable[..., LongcatFlash]) -> None:
    model = build_model()
    tokens = torch.arange(18).view(2, 9)
    whole, last = model(tokens), model(tokens, logits_to_keep=keep)
    torch.testing.assert_close(last.logits, whole.logits[:, -min(keep, 9) :])
    assert torch.equal(last.hidden_BTD, whole.hidden_BTD)
