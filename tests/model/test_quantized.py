"""Quantised checkpoints: values, scales, reading, and refusal by name where they cannot be used."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import (
    Conversion,
    load_config,
    load_pretrained,
    quantization_of,
    reading,
    save_pretrained,
    save_quantized,
)
from longcat.model.errors import CheckpointError
from longcat.model.quantized import Method, dequantize, kind_of, method_of, quantize, shapes

from .conftest import BuildModel

METHODS = get_args(Method)
# Greatest error, as a share of the largest magnitude that shares the scale.
BOUNDS = {"int8": 0.5 / 127 + 1e-6, "int4": 0.5 / 7 + 0.005, "fp8": 2**-4}


@pytest.mark.parametrize("kind", BOUNDS)
@pytest.mark.parametrize("shape", [(1, 1), (5, 33), (130, 257), (256, 128)])
def test_a_matrix_is_within_the_bound_of_its_method(kind: str, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values, scale = quantize(weight, kind)
    assert (tuple(values.shape), tuple(scale.shape)) == shapes(kind, shape)
    found = dequantize(values, scale, shape)
    assert found.shape == shape
    assert float((found - weight).abs().max() / weight.abs().max()) <= BOUNDS[kind]
    again = dequantize(*quantize(found, kind), shape)
    torch.testing.assert_close(again, found, rtol=1e-5, atol=0.0)


def test_fp8_has_one_scale_a_block() -> None:
    weight = torch.ones(200, 300)
    weight[150, 290] = 1000.0
    _, scale = quantize(weight, "fp8")
    assert scale.shape == (2, 3)
    torch.testing.assert_close(scale[1, 2], torch.tensor(1000.0 / 448.0))
    torch.testing.assert_close(scale[0, 0], torch.tensor(1.0 / 448.0))


def test_weights_that_are_not_finite_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not finite"):
        quantize(torch.tensor([[float("nan")]]), "int8")


def test_what_is_quantised() -> None:
    expert, down = "model.layers.0.mlp.experts.3.up_proj.weight", "model.layers.1.mlps.0.down_proj.weight"
    up = "model.layers.0.self_attn.1.kv_b_proj.weight"
    assert [kind_of(expert, method) for method in ("int8", "int4", "fp8")] == ["int8", "int4", "fp8"]
    assert [kind_of(down, method) for method in ("int8", "int4", "fp8")] == ["int8", "int8", "fp8"]
    assert [kind_of("lm_head.weight", method) for method in ("int8", "int4", "fp8")] == ["int8", "int4", None]
    assert [kind_of(up, method) for method in ("int8", "int4", "fp8")] == [None, None, "fp8"]
    for key in ("model.embed_tokens.weight", "model.layers.0.mlp.router.classifier.weight", "model.norm.weight"):
        assert kind_of(key, "int8") is None


@pytest.mark.parametrize("shard_bytes", [1 << 30, 4096])
@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_checkpoint_is_read_as_it_was_written(
    build_model: BuildModel, tmp_path: Path, method: Method, shard_bytes: int
) -> None:
    model = build_model(num_nextn_predict_layers=1)
    count = save_quantized(model, tmp_path, method, max_shard_bytes=shard_bytes)
    assert count == sum(kind_of(key, method) is not None for key in written(build_model, tmp_path / "plain"))
    assert quantization_of(tmp_path) == method
    loaded = load_pretrained(tmp_path, quantized="read")
    ids = torch.randint(97, (1, 20))
    error = (loaded(ids).logits - model(ids).logits).norm() / model(ids).logits.norm()
    assert 0.0 < float(error) < {"int8": 0.05, "int4": 0.6, "fp8": 0.25}[method]
    again = tmp_path / "again"
    save_quantized(loaded, again, method, max_shard_bytes=shard_bytes)
    torch.testing.assert_close(load_pretrained(again, quantized="read")(ids).logits, loaded(ids).logits)


def written(build_model: BuildModel, folder: Path) -> dict[str, torch.Tensor]:
    save_pretrained(build_model(num_nextn_predict_layers=1), folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("method", ["int8", "int4", "fp8"])
def test_training_and_parts_of_models_refuse_them_by_name(
    build_model: BuildModel, tmp_path: Path, method: Method
) -> None:
    save_quantized(build_model(), tmp_path, method)
    for read in (load_config, load_pretrained):
        with pytest.raises(CheckpointError, match=f"the weights are {method}; quantised weights are for inference"):
            read(tmp_path)
    with pytest.raises(CheckpointError, match=method), reading(tmp_path):
        pass


def test_fp8_is_converted_and_others_are_not(build_model: BuildModel, tmp_path: Path) -> None:
    save_quantized(build_model(), tmp_path / "fp8", "fp8")
    conversion = Conversion(tmp_path / "fp8")
    assert conversion.dtype == "bfloat16"
    conversion.write(tmp_path / "plain")
    expected = load_pretrained(tmp_path / "fp8", quantized="fp8", dtype=torch.bfloat16).state_dict()
    found = load_pretrained(tmp_path / "plain", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    save_quantized(build_model(), tmp_path / "int8", "int8")
    with pytest.raises(CheckpointError, match="the weights are int8"):
        Conversion(tmp_path / "int8")


@pytest.mark.parametrize("shard", [20_000, 5_000_000_000])
def test_a_plain_checkpoint_is_converted_to_fp8(build_model: BuildModel, tmp_path: Path, shard: int) -> None:
    """The same tensors as of the model in memory; each weight within the rounding of e4m3 of its block's scale."""
    model = build_model(num_nextn_predict_layers=1)
    save_pretrained(model, tmp_path / "plain")
    save_quantized(model, tmp_path / "expected", "fp8")
    conversion = Conversion(tmp_path / "plain", fp8=True)
    conversion.write(tmp_path / "fp8", max_shard_bytes=shard)
    found = tensors_of(tmp_path / "fp8")
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key].float(), tensor.float()), key
    stated = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("fp8", "expected")]
    assert stated[0] == stated[1]
    assert (conversion.dtype, conversion.size) == ("bfloat16", sum(tensor.nbytes for tensor in found.values()))
    plain, scaled = load_file(tmp_path / "plain" / "model.safetensors"), 0
    for key, weight in plain.items():
        for (row, column), scale in np.ndenumerate(found.get(f"{key}_scale_inv", torch.zeros(0, 0)).double().numpy()):
            block = slice(128 * row, 128 * row + 128), slice(128 * column, 128 * column + 128)
            stored, exact = found[key].double()[block] * scale, weight.double()[block]
            assert ((stored - exact).abs() <= (exact.abs() * 2**-4).clamp_min(scale * 2**-10) * 1.0001).all(), key
            scaled += 1
    assert scaled > 20


@pytest.mark.parametrize("more", [{"dtype": torch.float32}, {"layout": "transformers5"}])
def test_fp8_has_one_layout_and_dtype(build_model: BuildModel, tmp_path: Path, more: dict[str, Any]) -> None:
    save_pretrained(build_model(), tmp_path)
    with pytest.raises(CheckpointError, match="leave out the other layout or dtype"):
        Conversion(tmp_path, fp8=True, **more)


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {key: tensor for path in folder.glob("*.safetensors") for key, tensor in load_file(path).items()}


def test_fp8_without_a_stated_format_is_e4m3() -> None:
    stated = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
    assert method_of({"quantization_config": stated}, "config.json") == "fp8"


@pytest.mark.parametrize(
    "stated",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [64, 64]},
        {"quant_method": "longcat", "weights": "int3"},
        "awq",
    ],
)
def test_methods_of_others_are_refused(build_model: BuildModel, tmp_path: Path, stated: Any) -> None:
    save_quantized(build_model(), tmp_path, "int8")
    change_config(tmp_path, stated)
    name = stated["quant_method"] if isinstance(stated, dict) else stated
    with pytest.raises(CheckpointError, match=f"{name}.*other tools cannot be read"):
        load_pretrained(tmp_path, quantized="read")


def change_config(folder: Path, stated: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": stated}))


KEY = "model.layers.0.mlps.0.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(f"{KEY}_scale"), f"{KEY} is I8 and its {KEY}_scale is missing"),
        (lambda tensors: tensors.update({f"{KEY}_scale": torch.ones(3)}), r"_scale has the shape \(3,\)"),
        (lambda tensors: tensors.update({KEY: tensors[KEY][:3].clone()}), rf"{KEY} has the shape \(3, 32\)"),
        (lambda tensors: tensors.update({f"{KEY}_scale": torch.ones(40).int()}), "_scale is I32, not a float"),
        (lambda tensors: tensors.update({"other.weight_scale": torch.ones(3)}), "other.weight_scale is unexpected"),
    ],
)
def test_damaged_files_are_refused(build_model: BuildModel, tmp_path: Path, change: Any, message: str) -> None:
    save_quantized(build_model(), tmp_path, "int8")
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(tmp_path, quantized="read")
