"""Checkpoints: bitwise round trip, and every inconsistency is named."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import load_config, load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
EXPERT = "model.layers.1.mlp.experts.4.up_proj.weight"


@pytest.fixture
def saved(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def assert_equal_models(model: LongcatFlash, other: LongcatFlash) -> None:
    assert model.config == other.config
    assert model.state_dict().keys() == other.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


@pytest.mark.parametrize("limit", [10**9, 20_000])
@pytest.mark.parametrize("tied", [False, True])
def test_round_trip_is_bitwise(limit: int, tied: bool, build_model: BuildModel, tmp_path: Path) -> None:
    model = build_model(tie_word_embeddings=tied)
    save_pretrained(model, tmp_path, max_shard_bytes=limit)
    assert_equal_models(load_pretrained(tmp_path), model)
    sharded = (tmp_path / "model.safetensors.index.json").exists()
    assert sharded == (limit == 20_000)
    assert not list(tmp_path.glob(".*"))
    if sharded:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        # Other programs do not tie the output projection, so that a tied table is written twice.
        written = [*model.state_dict().values(), *([model.model.embed_tokens.weight] if tied else [])]
        assert sum(tensor.nbytes for tensor in written) == index["metadata"]["total_size"]
        assert all(path.stat().st_size < 30_000 for path in tmp_path.glob("model-0*.safetensors"))


def test_keys_are_the_published_ones(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    attention = "model.layers.1.self_attn.1"
    assert tensors["model.embed_tokens.weight"].shape == (97, 32)
    assert tensors[EXPERT].shape == (12, 32)
    assert tensors["model.layers.0.mlp.experts.0.down_proj.weight"].shape == (32, 12)
    assert tensors["model.layers.0.mlps.1.gate_proj.weight"].shape == (40, 32)
    assert tensors["model.layers.0.mlp.router.classifier.weight"].shape == (8, 32)
    assert tensors["model.layers.0.mlp.router.e_score_correction_bias"].shape == (8,)
    assert tensors[f"{attention}.kv_a_proj_with_mqa.weight"].shape == (16 + 6, 32)
    assert tensors[f"{attention}.kv_b_proj.weight"].shape == (3 * (10 + 8), 16)
    assert tensors[f"{attention}.q_b_proj.weight"].shape == (3 * 16, 20)
    assert "model.layers.0.mlp.experts.5.up_proj.weight" not in tensors
    assert len(tensors) == 3 + 2 * (2 * 7 + 2 * 3 + 4 + 2 + 5 * 3)


def test_the_same_model_gives_the_same_bytes(build_model: BuildModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_pretrained(build_model(), tmp_path / name, max_shard_bytes=50_000)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o007])
@pytest.mark.parametrize("limit", [10**9, 50_000])
def test_files_have_the_modes_of_the_umask(umask: int, limit: int, build_model: BuildModel, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        save_pretrained(build_model(), tmp_path / "saved", max_shard_bytes=limit)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "saved").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_half_precision_is_kept_except_in_the_router(saved: Path, tmp_path: Path) -> None:
    model = load_pretrained(saved, dtype=torch.bfloat16)
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert {dtype for name, dtype in dtypes.items() if ".router." in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if ".router." not in name} == {torch.bfloat16}
    save_pretrained(model, tmp_path / "half")
    assert_equal_models(load_pretrained(tmp_path / "half", dtype=torch.bfloat16), model)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(EXPERT), rf"{EXPERT} is missing"),
        (lambda tensors: tensors.update({"model.extra.weight": torch.zeros(1)}), "model.extra.weight is unexpected"),
        (lambda tensors: tensors.update({EXPERT: torch.zeros(32, 12)}), rf"{EXPERT} has the shape \(32, 12\)"),
        (lambda tensors: tensors.update({EXPERT: torch.zeros(12, 32, dtype=torch.int8)}), f"{EXPERT} is I8"),
    ],
)
def test_every_tensor_must_match_the_configuration(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    rewrite(saved, change)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(saved)


def test_pickled_weights_are_refused_unread(saved: Path) -> None:
    (saved / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load_pretrained(saved)
    (saved / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is a pickled format"):
        load_pretrained(saved)


def test_damaged_and_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: damaged"):
        load_pretrained(saved)
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        load_config(tmp_path)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: "):
        load_config(saved)
    (saved / "config.json").write_text(" " * (1 << 20) + "{}")
    with pytest.raises(CheckpointError, match="larger than the limit"):
        load_config(saved)
    (saved / "config.json").write_text("{}")
    with pytest.raises(ModelConfigError, match="the key vocab_size is missing"):
        load_config(saved)


@pytest.fixture
def sharded(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "sharded", max_shard_bytes=50_000)
    return tmp_path / "sharded"


def test_the_index_is_checked_against_the_shards(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    for name, message in (
        ("../elsewhere.safetensors", "not a safetensors file of this folder"),
        ("model.bin", "not a safetensors file of this folder"),
        ("absent.safetensors", "the index names this file, but it is missing"),
        ("model-00001-of-00005.safetensors", "index.json says is in model-00001-of-00005.safetensors"),
    ):
        changed = index["weight_map"] | {EXPERT: name}
        assert changed != index["weight_map"]
        path.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(CheckpointError, match=message):
            load_pretrained(sharded)


def test_a_folder_with_other_weights_is_not_written_to(sharded: Path, build_model: BuildModel) -> None:
    with pytest.raises(CheckpointError, match="already holds the weights model-00001"):
        save_pretrained(build_model(), sharded)
    assert_equal_models(load_pretrained(sharded), build_model())
    (sharded / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"holds both model\.safetensors and"):
        load_pretrained(sharded)


def test_an_interrupted_save_leaves_no_readable_checkpoint(
    saved: Path, build_model: BuildModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("longcat.model.weights.serialize_file", fail)
    with pytest.raises(KeyboardInterrupt):
        save_pretrained(build_model(seed=1), saved)
    assert not (saved / "config.json").exists()
    assert not list(saved.glob(".*"))
    with pytest.raises(CheckpointError):
        load_pretrained(saved)


def test_a_loaded_model_trains(saved: Path, config: ModelConfig) -> None:
    model = load_pretrained(saved)
    loss, _, _ = model.loss(torch.zeros(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64))
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.config == config
