"""Reading and writing the published configuration."""

from typing import Any

import pytest
from pydantic import ValidationError

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.presets import load_preset, preset_description, preset_names

# All keys of the published config.json of LongCat-Flash-Chat.
PUBLISHED: dict[str, Any] = {
    "architectures": ["LongcatFlashForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attention_method": "MLA",
    "auto_map": {"AutoConfig": "configuration_longcat_flash.LongcatFlashConfig"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "expert_ffn_hidden_size": 2048,
    "ffn_hidden_size": 12288,
    "hidden_size": 6144,
    "kv_lora_rank": 512,
    "max_position_embeddings": 131072,
    "mla_scale_kv_lora": True,
    "mla_scale_q_lora": True,
    "model_type": "longcat_flash",
    "moe_topk": 12,
    "n_routed_experts": 512,
    "num_attention_heads": 64,
    "num_layers": 28,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000000,
    "routed_scaling_factor": 6.0,
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": 131072,
    "zero_expert_num": 256,
    "zero_expert_type": "identity",
}


def test_the_published_file_equals_the_preset() -> None:
    assert ModelConfig.from_dict(PUBLISHED) == load_preset("longcat-flash") == ModelConfig()


def test_written_configurations_are_read_back_and_have_the_published_keys() -> None:
    for name in preset_names():
        config = load_preset(name)
        assert ModelConfig.from_dict(config.to_dict()) == config
    written = ModelConfig().to_dict()
    assert {key: written[key] for key in PUBLISHED if key != "auto_map"} == {
        key: value for key, value in PUBLISHED.items() if key != "auto_map"
    }
    assert "auto_map" not in written


# The keys of a published copy with YaRN, in the older spelling.
YARN = {
    "type": "yarn",
    "factor": 10,
    "original_max_position_embeddings": 32768,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1,
    "mscale_all_dim": 1,
}


def test_yarn_is_read_and_written_under_its_key() -> None:
    config = ModelConfig.from_dict(PUBLISHED | {"rope_scaling": YARN})
    written = config.to_dict()
    assert written["rope_scaling"] == {key: value for key, value in YARN.items() if key != "type"} | {
        "rope_type": "yarn"
    }
    assert ModelConfig.from_dict(written) == config
    assert "rope_scaling" not in ModelConfig.from_dict(PUBLISHED).to_dict()


def test_keys_of_newer_transformers_are_read() -> None:
    newer = {key: value for key, value in PUBLISHED.items() if key != "rope_theta"}
    newer |= {
        "rope_parameters": {"rope_theta": 5e6, "rope_type": "default"},
        "rope_scaling": None,
        "pad_token_id": None,
        "dtype": "bfloat16",
        "transformers_version": "5.23.0",
        "num_key_value_heads": 64,
        "head_dim": 64,
        "qk_head_dim": 192,
        "num_hidden_layers": 56,
        "hidden_act": "silu",
        "output_router_logits": False,
    }
    assert ModelConfig.from_dict(newer) == ModelConfig(rope_theta=5e6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moe_top_k": 12}, "unknown key moe_top_k = 12"),
        ({"moe_topk": 769}, "moe_topk = 769 exceeds n_routed_experts [+] zero_expert_num = 768"),
        ({"moe_topk": 0}, "moe_topk = 0: "),
        ({"hidden_size": "6144"}, "hidden_size = '6144': "),
        ({"qk_rope_head_dim": 63}, "qk_rope_head_dim = 63: "),
        ({"zero_expert_type": "drop"}, "zero_expert_type = 'drop': "),
        ({"eos_token_id": 131072}, "eos_token_id = 131072 is outside vocab_size"),
        ({"attention_bias": True}, "attention_bias = True is not supported, expected False"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported"),
        ({"head_dim": 128}, "head_dim = 128 is not supported, expected 64"),
        ({"model_type": "longcat_flash_ngram"}, "model_type = 'longcat_flash_ngram'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 10}}, "rope_scaling = .* only the plain rotary embedding"),
        ({"quantization_config": {"quant_method": "fp8"}}, "unknown key quantization_config"),
    ],
)
def test_unsupported_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message) as caught:
        ModelConfig.from_dict(PUBLISHED | change, source="folder/config.json")
    assert str(caught.value).startswith("folder/config.json: ")
    assert "\n" not in str(caught.value)


SIZES = [
    name
    for name, field in ModelConfig.model_fields.items()
    if field.annotation is int and not name.endswith("_token_id") and name not in ("zero_expert_num",)
]


@pytest.mark.parametrize("name", [*SIZES, "zero_expert_num", "bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "4", True, [4]])
def test_sizes_must_be_positive_integers(name: str, value: Any) -> None:
    if name == "eos_token_id" and value == [4]:  # published files may have a list
        assert ModelConfig.from_dict(PUBLISHED | {name: value}).eos_token_id == 4
        return
    may_be_zero = ("zero_expert_num", "num_nextn_predict_layers", "bos_token_id", "eos_token_id", "pad_token_id")
    if value == 0 and name in may_be_zero:
        assert getattr(ModelConfig.from_dict(PUBLISHED | {name: value}), name) == 0
        return
    with pytest.raises(ModelConfigError, match=f"^c: {name} = ") as caught:
        ModelConfig.from_dict(PUBLISHED | {name: value}, source="c")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["rope_theta", "rms_norm_eps", "routed_scaling_factor", "initializer_range"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), "1", True, [1.0]])
def test_factors_must_be_positive_finite_numbers(name: str, value: Any) -> None:
    with pytest.raises(ModelConfigError, match=f"^c: {name} = "):
        ModelConfig.from_dict(PUBLISHED | {name: value}, source="c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_routed_experts": 4, "zero_expert_num": 0, "moe_topk": 5}, "moe_topk = 5 exceeds .* = 4"),
        ({"n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 7}, "moe_topk = 7 exceeds .* = 6"),
        ({"num_hidden_layers": 30}, "num_hidden_layers = 30 is not supported, expected 56"),
        ({"num_key_value_heads": 8}, "num_key_value_heads = 8 is not supported, expected 64"),
        ({"qk_head_dim": 128}, "qk_head_dim = 128 is not supported, expected 192"),
        ({"qk_rope_head_dim": 1}, "qk_rope_head_dim = 1: "),
        ({"vocab_size": 3}, "vocab_size = 3: "),
        ({"vocab_size": 4, "pad_token_id": 4}, "pad_token_id = 4 is outside vocab_size = 4"),
        ({"rope_parameters": {"rope_theta": 5e6}}, "rope_theta = 10000000 contradicts rope_parameters.rope_theta = 5"),
        ({"rope_parameters": {"rope_theta": "5e6"}}, "rope_theta = 10000000 contradicts rope_parameters.rope_theta"),
        ({"rope_theta": None, "rope_parameters": {"rope_theta": "5e6"}}, "rope_theta = '5e6': "),
        ({"rope_scaling": {"type": "linear", "factor": 10}}, "rope_scaling = .* only the plain rotary embedding"),
        ({"rope_scaling": {"type": "yarn", "factor": 10}}, "rope_scaling: the key mscale is missing"),
        ({"rope_scaling": YARN | {"mscale": 0.7}}, "rope_scaling: mscale = 0.7 differs from mscale_all_dim = 1"),
        ({"rope_scaling": YARN | {"factor": 0.5}}, "rope_scaling: factor = 0.5: "),
        ({"rope_scaling": YARN | {"attention_factor": 2}}, "rope_scaling: attention_factor = 2: "),
        ({"rope_scaling": YARN | {"beta_slow": 32}}, "rope_scaling: beta_fast = 32 must exceed beta_slow = 32"),
        (
            {"rope_scaling": YARN | {"rope_type": "default"}},
            "rope_scaling = .*type and rope_type contradict each other",
        ),
        ({"rope_scaling": YARN, "rope_parameters": YARN | {"factor": 5}}, "rope_scaling contradicts rope_parameters"),
        ({"rope_scaling": {"factor": 10}}, "rope_scaling = .* only the plain rotary embedding"),
        ({"rope_scaling": "yarn"}, "rope_scaling = 'yarn' is not supported"),
        (
            {"architectures": ["LongcatFlashNgramForCausalLM"]},
            "architectures = .* needs ngram_vocab_size_ratio, which is",
        ),
        ({"model_type": 7}, "model_type = 7 is not supported, expected 'longcat_flash'"),
        ({"attention_method": "MHA"}, "attention_method = 'MHA': "),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings = 'no': "),
        ({"norm_topk_prob": True}, "norm_topk_prob = True is not supported, expected False"),
        ({"router_bias": True}, "router_bias = True is not supported, expected False"),
    ],
)
def test_values_that_contradict_each_other_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=f"^c: {message}") as caught:
        ModelConfig.from_dict(PUBLISHED | change, source="c")
    assert "\n" not in str(caught.value)


def test_another_architecture_is_reported_before_missing_keys() -> None:
    llama = {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2}
    with pytest.raises(ModelConfigError, match=r"^c: model_type = 'llama' is not supported, expected 'longcat_flash'"):
        ModelConfig.from_dict(llama | {"model_type": "llama"}, source="c")
    with pytest.raises(ModelConfigError, match=r"^c: architectures = .'LlamaForCausalLM'. is not supported"):
        ModelConfig.from_dict(llama, source="c")


def test_a_missing_key_is_named() -> None:
    for key in ("vocab_size", "rope_theta", "n_routed_experts"):
        with pytest.raises(ModelConfigError, match=f"the key {key} is missing"):
            ModelConfig.from_dict({name: value for name, value in PUBLISHED.items() if name != key})


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ModelConfig().moe_topk = 3


def test_presets_have_descriptions_and_unknown_ones_are_listed() -> None:
    assert {"demo", "lc-100m", "longcat-flash", "longcat-flash-lite", "smoke", "tiny"} < set(preset_names())
    assert preset_names() == sorted(preset_names())
    for name in preset_names():
        assert preset_description(name).endswith(".")
        assert load_preset(name).num_layers > 0
    with pytest.raises(ModelConfigError, match="preset big: unknown, choose one of demo, lc-100m, longcat-1b"):
        load_preset("big")
