"""Hostile files of every published form: values of any kind for any key, weights that are not finite, lost files."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import Conversion, load_pretrained, save_pretrained, save_quantized
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError, ModelError
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
INDEX = "model.safetensors.index.json"
YARN = {"rope_type": "deepseek_yarn", "factor": 4, "original_max_position_embeddings": 64, "beta_fast": 32,
        "beta_slow": 1, "mscale": 1, "mscale_all_dim": 1}  # fmt: skip
SPARSE = {"index_topk": 16, "index_n_heads": 2, "index_head_dim": 16, "index_init_tokens": 2, "index_local_tokens": 4,
          "index_k_norm_type": "rms", "cli_factor": 2, "index_topk_pattern": ["C", "S", "C", "S"],
          "indexer_rope_interleave": True, "use_longcat_dsa": True, "dsa_mtp_cli": True, "mtp_num_layers": 3,
          "mtp_replicate_modules": True, "mtp_disable_over_tokenizer": True, "moe_impl": "mix",
          "moe_switch_token_num": 8, "use_mla": 1, "attention_method": "LSA"}  # fmt: skip
NGRAM = {"oe_vocab_size_ratio": 2.5, "oe_neighbor_num": 3, "oe_split_num": 2}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


WEIRD: list[Any] = [
    *(True, False, -1, 0, 1, 2, 1 << 24, 1 << 31, 1 << 64, -(1 << 70), 1.5, 1e308, -0.0, float("nan"), float("inf")),
    *("", "x", "8", "NaN", "\ud800", "\x1b[31m", "x" * 10_000, [], [[]], [1], [None], {}, {"a": 1}, {"": []}),
    *([1 << 80] * 3, deep(400), {"rope_type": "yarn"}, {"type": {}}),
]


def published(build_model: BuildModel) -> dict[str, Any]:
    """All keys of all forms at once."""
    plain = build_model().config.to_dict()
    del plain["model_type"]
    return plain | SPARSE | NGRAM | {"rope_scaling": YARN, "architectures": ["LongcatCausalLM"], "eos_token_id": [2, 3]}


def test_any_value_of_any_key_is_read_or_refused_in_one_line(build_model: BuildModel) -> None:
    whole = published(build_model)
    assert ModelConfig.from_dict(whole).sparse_index is not None
    nested = {f"rope_scaling.{key}": ("rope_scaling", key) for key in YARN}
    refused = 0
    for key in [*whole, *nested]:
        for value in [None, *WEIRD]:
            changed = dict(whole)
            if key in nested:
                changed["rope_scaling"] = YARN | {nested[key][1]: value}
            else:
                changed[key] = value
            try:
                config = ModelConfig.from_dict(changed, source="config.json")
            except ModelConfigError as error:
                assert str(error).startswith("config.json: "), (key, value)
                assert len(str(error)) < 600, (key, value)
                assert str(error).isprintable(), (key, value)
                refused += 1
            else:
                assert ModelConfig.from_dict(config.to_dict()) == config, (key, value)
    assert refused > 0.8 * len(WEIRD) * len(whole)


def test_a_missing_key_is_named_or_has_a_default(build_model: BuildModel) -> None:
    whole = published(build_model)
    for key in whole:
        lacking = {name: value for name, value in whole.items() if name != key}
        try:
            ModelConfig.from_dict(lacking, source="c")
        except ModelConfigError as error:
            belongs_to = key, "index_topk", "emb_neighbor_num"
            assert any(name in str(error) for name in belongs_to), key


# Weights that are not finite.


def altered(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "key",
    [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.1.mlp.experts.4.down_proj.weight",
        "lm_head.weight",
    ],
)
def test_a_weight_that_is_not_finite_is_named(
    key: str, dtype: torch.dtype, value: float, build_model: BuildModel, tmp_path: Path
) -> None:
    save_pretrained(build_model().to(dtype), tmp_path / "saved")
    altered(tmp_path / "saved", lambda tensors: tensors[key].view(-1)[-1].fill_(value))
    message = rf"model\.safetensors: {key} has a value that is not finite"
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(tmp_path / "saved")
    for wanted in (None, torch.bfloat16):
        with pytest.raises(CheckpointError, match=message):
            Conversion(tmp_path / "saved", dtype=wanted).write(tmp_path / "converted")
        assert not list((tmp_path / "converted").glob("*.safetensors"))


@pytest.mark.parametrize("suffix", ["", "_scale_inv"])
def test_a_quantised_weight_that_is_not_finite_is_named(suffix: str, build_model: BuildModel, tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.1.o_proj.weight"
    save_quantized(build_model(), tmp_path / "fp8", "fp8")

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        bits = tensors[key + suffix].view(torch.uint8).view(-1)
        bits[:4] = torch.tensor([0, 0, 0xC0, 0x7F], dtype=torch.uint8) if suffix else 0x7F

    altered(tmp_path / "fp8", spoil)
    with pytest.raises(CheckpointError, match=rf"{key} has a value that is not finite"):
        load_pretrained(tmp_path / "fp8", quantized="read")
    with pytest.raises(CheckpointError, match=rf"{key} has a value that is not finite"):
        Conversion(tmp_path / "fp8").write(tmp_path / "converted")


# Lost and special files.


@pytest.fixture
def sharded(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "sharded", max_shard_bytes=50_000)
    return tmp_path / "sharded"


def index(folder: Path, **more: str) -> None:
    stated = json.loads((folder / INDEX).read_text())
    stated["weight_map"] |= more
    (folder / INDEX).write_text(json.dumps(stated))


def test_a_key_of_the_index_that_no_shard_holds_is_named(sharded: Path) -> None:
    index(sharded, **{"model.layers.7.extra.weight": "model-00001-of-00005.safetensors"})
    for read in (load_pretrained, Conversion):
        with pytest.raises(
            CheckpointError, match=r"says that 'model\.layers\.7\.extra\.weight' is in model-00001.* lacks"
        ):
            read(sharded)


def test_a_scale_of_the_index_that_no_shard_holds_is_named(build_model: BuildModel, tmp_path: Path) -> None:
    save_quantized(build_model(), tmp_path, "fp8", max_shard_bytes=30_000)
    assert load_pretrained(tmp_path, quantized="read").config.num_layers == 2
    stated = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    index(tmp_path, **{"x.weight_scale_inv": next(iter(stated.values()))})
    with pytest.raises(CheckpointError, match=r"says that 'x\.weight_scale_inv' is in"):
        load_pretrained(tmp_path, quantized="read")


def test_an_index_with_both_spellings_of_a_table_is_refused(sharded: Path) -> None:
    index(sharded, **{"model.oe_embed_proj0.weight": "a.safetensors"})
    index(sharded, **{"model.ngram_embeddings.post_projs.0.weight": "a.safetensors"})
    with pytest.raises(CheckpointError, match="both spellings"):
        load_pretrained(sharded)


SPECIAL: dict[str, Callable[[Path], Any]] = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
    "dangling": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", [*SPECIAL, "socket"])
@pytest.mark.parametrize("name", ["config.json", INDEX, "model-00002-of-00005.safetensors"])
def test_what_is_not_a_file_is_never_read(name: str, kind: str, sharded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sharded / name).unlink()
    monkeypatch.chdir(sharded)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(name) if kind == "socket" else SPECIAL[kind](sharded / name)
        for read in (load_pretrained, Conversion):
            with pytest.raises(ModelError) as caught:
                read(sharded)
            assert name in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
