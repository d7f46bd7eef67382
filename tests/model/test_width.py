"""Parameter kinds, initial values by kind, and models of other widths."""

from __future__ import annotations

import pytest
import torch

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.parameter_kinds import KINDS, parameter_kind
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.model.width import widened

EVERY_PART = {
    "num_nextn_predict_layers": 1,
    "gating_residual": True,
    "zero_expert_types": {"constant": 2, "identity": 1},
}


def test_every_parameter_has_its_kind(config: ModelConfig) -> None:
    model = LongcatFlash(ModelConfig(**(config.model_dump() | EVERY_PART)))
    kinds: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for name, parameter in model.named_parameters():
        kinds[parameter_kind(config, name, parameter.ndim)].add(name)
    assert kinds["unembedding"] == {"lm_head.weight"}
    constants = {f"model.layers.{layer}.mlp.zero_experts.constant.vectors" for layer in range(2)}
    assert kinds["embedding"] == {"model.embed_tokens.weight", "model.mtp.embed_tokens.weight"} | constants
    residuals = {f"model.layers.{layer}.mlp.router.residual.weight" for layer in range(2)}
    assert {name for name in kinds["vector"] if "norm" not in name} == residuals
    assert kinds["router"] == {f"model.layers.{layer}.mlp.router.classifier.weight" for layer in range(2)}
    assert {"model.layers.1.mlp.experts.gate_up_proj", "model.layers.0.mlp.experts.down_proj"} <= kinds["hidden"]
    assert {"model.mtp.layers.0.eh_proj.weight", "model.layers.0.self_attn.1.kv_b_proj.weight"} <= kinds["hidden"]
    # Published names give the same kinds.
    for key, tensor in published_tensors(model):
        if ".experts." in key:
            assert parameter_kind(config, key, tensor.dim()) == "hidden"


def test_initial_std_by_kind_scales_the_same_values(config: ModelConfig) -> None:
    def values(std: dict[str, float] | None) -> dict[str, torch.Tensor]:
        model = LongcatFlash(config)
        initialize(model, 3, std)
        return dict(published_tensors(model))

    plain, same = values(None), values(dict.fromkeys(("embedding", "hidden", "router", "unembedding"), 0.2))
    scaled = values({"hidden": 0.1, "unembedding": 0.4, "router": 0.6})
    factors = {"embedding": 1.0, "hidden": 0.5, "router": 3.0, "unembedding": 2.0, "vector": 1.0}
    for key, tensor in plain.items():
        assert torch.equal(tensor, same[key])
        torch.testing.assert_close(
            scaled[key], tensor * factors[parameter_kind(config, key, tensor.dim())], rtol=1e-6, atol=0
        )


def test_the_published_proxy_widens_into_the_published_model() -> None:
    proxy, target = load_preset("longcat-flash-proxy"), load_preset("longcat-flash")
    wide = widened(proxy, 8).model_dump(exclude={"rope_theta", "max_position_embeddings"})
    assert wide == target.model_dump(exclude={"rope_theta", "max_position_embeddings"})
    assert widened(target, 1 / 8).hidden_size == proxy.hidden_size
    with pytest.raises(ModelConfigError, match=r"num_attention_heads = 8 times 0.0625 is not an integer"):
        widened(proxy, 1 / 16)
