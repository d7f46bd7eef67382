"""Tensor names of our files are those that the loaders of vLLM and SGLang ask for, no more and no fewer.

Written down from `longcat_flash.py`, `longcat_flash_mtp.py` and `longcat_flash_ngram.py` of vLLM and `longcat_flash.py`
and `longcat_flash_nextn.py` of SGLang: what `load_weights` looks up after its renamings (gate and up projections and
both down-projections of latents are joined there), and the table of names of multi-token prediction, equal in both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from longcat.model.checkpoint import Conversion, save_pretrained, save_quantized
from longcat.model.config import ModelConfig
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
ATTENTION = ("q_a_proj", "q_a_layernorm", "q_b_proj", "kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj")
NETWORK = ("gate_proj", "up_proj", "down_proj")

MULTI_TOKEN_PREDICTION = {
    "model.mtp.embed_tokens.weight",
    "model.mtp.layers.0.eh_proj.weight",
    "model.mtp.layers.0.enorm.m.weight",
    "model.mtp.layers.0.hnorm.m.weight",
    "model.mtp.layers.0.input_layernorm.weight",
    "model.mtp.layers.0.post_attention_layernorm.weight",
    "model.mtp.layers.0.self_attn.kv_a_layernorm.weight",
    "model.mtp.layers.0.self_attn.kv_a_proj_with_mqa.weight",
    "model.mtp.layers.0.self_attn.kv_b_proj.weight",
    "model.mtp.layers.0.self_attn.o_proj.weight",
    "model.mtp.layers.0.self_attn.q_a_layernorm.weight",
    "model.mtp.layers.0.self_attn.q_a_proj.weight",
    "model.mtp.layers.0.self_attn.q_b_proj.weight",
    "model.mtp.layers.0.transformer_layer.mlp.down_proj.weight",
    "model.mtp.layers.0.transformer_layer.mlp.gate_proj.weight",
    "model.mtp.layers.0.transformer_layer.mlp.up_proj.weight",
    "model.mtp.norm.weight",
}
# Of these the table also has a name with the scales of FP8.
SCALED = ("eh_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_a_proj", "q_b_proj", *NETWORK)


def asked_for(config: ModelConfig) -> set[str]:
    """Names that fill every parameter of the target model and of its draft model."""
    names = {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    for layer in (f"model.layers.{index}" for index in range(config.num_layers)):
        for place in range(2):
            names |= {f"{layer}.self_attn.{place}.{name}.weight" for name in ATTENTION}
            names |= {f"{layer}.mlps.{place}.{name}.weight" for name in NETWORK}
            names |= {f"{layer}.{norm}.{place}.weight" for norm in ("input_layernorm", "post_attention_layernorm")}
        names |= {f"{layer}.mlp.router.classifier.weight", f"{layer}.mlp.router.e_score_correction_bias"}
        experts = range(config.n_routed_experts)
        names |= {f"{layer}.mlp.experts.{expert}.{name}.weight" for expert in experts for name in NETWORK}
    if config.num_nextn_predict_layers:
        names |= MULTI_TOKEN_PREDICTION
    tables = 0 if config.ngram_tables is None else config.ngram_tables.count
    for kind in ("embedders", "post_projs"):
        names |= {f"model.ngram_embeddings.{kind}.{table}.weight" for table in range(tables)}
    return names


def stored(folder: Path) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "mtp": {"num_nextn_predict_layers": 1},
    "mtp-shared": {"num_nextn_predict_layers": 1, "mtp_share_embeddings": True, "tie_word_embeddings": True},
    "no-zero-experts": {"zero_expert_num": 0, "num_nextn_predict_layers": 1},
    "ngram": {"ngram_vocab_size_ratio": 2.5, "emb_neighbor_num": 3, "emb_split_num": 2, "num_nextn_predict_layers": 1},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_checkpoint_and_its_export_have_the_names_that_engines_ask_for(
    variant: str, build_model: BuildModel, tmp_path: Path
) -> None:
    model = build_model(**VARIANTS[variant])
    save_pretrained(model, tmp_path / "own")
    conversion = Conversion(tmp_path / "own", standalone=True)
    conversion.write(tmp_path / "exported")
    assert conversion.config.unreadable_elsewhere() is None
    assert stored(tmp_path / "own") == stored(tmp_path / "exported") == asked_for(model.config)


def test_the_scales_of_fp8_have_the_names_that_engines_ask_for(build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model(num_nextn_predict_layers=1, tie_word_embeddings=True)
    save_quantized(model, tmp_path, "fp8")
    names = asked_for(model.config)
    scales = {f"{name}_scale_inv" for name in names if name.split(".")[-2] in SCALED}
    assert stored(tmp_path) == names | scales
