"""Layouts: the format of transformers 5, conversion on disk, and its memory use."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import Conversion, load_pretrained, save_pretrained
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
IDLE = "model.layers.1.mlp.experts.7.gate_proj.weight"


def relative_rms(result: torch.Tensor, expected: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(result - expected) / torch.linalg.vector_norm(expected))


def assert_equal_models(model: LongcatFlash, other: LongcatFlash) -> None:
    assert model.config == other.config
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


@pytest.fixture
def for_transformers(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(), tmp_path / "five", layout="transformers5")
    return tmp_path / "five"


def change(folder: Path, alter: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    alter(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_the_layout_of_transformers_5_is_read_back(build_model: BuildModel, for_transformers: Path) -> None:
    tensors = load_file(for_transformers / "model.safetensors")
    assert tensors[IDLE].shape == (12, 32)
    assert not tensors[IDLE].any()
    assert "model.layers.1.mlp.experts.7.down_proj.weight" not in tensors
    assert sum(".experts.7." in key for key in tensors) == 2 * 2
    assert_equal_models(load_pretrained(for_transformers), build_model())


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda tensors: tensors.pop(IDLE), rf"{IDLE} is missing"),
        (lambda tensors: tensors.update({IDLE: torch.zeros(12, 31)}), rf"{IDLE} has the shape \(12, 31\)"),
        (
            lambda tensors: tensors.update({IDLE.replace("gate", "down"): torch.zeros(32, 12)}),
            r"experts\.7\.down_proj\.weight is unexpected",
        ),
        (
            lambda tensors: tensors.update({IDLE.replace("7", "8"): torch.zeros(12, 32)}),
            r"experts\.8\.gate_proj\.weight is unexpected",
        ),
    ],
)
def test_rows_of_zero_experts_are_complete_or_absent(
    for_transformers: Path, alter: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    change(for_transformers, alter)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(for_transformers)


def test_conversion_there_and_back_gives_the_same_bytes(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path / "a")
    told: list[int] = []
    there = Conversion(tmp_path / "a", layout="transformers5")
    there.write(tmp_path / "b", max_shard_bytes=20_000, advance=told.append)
    back = Conversion(tmp_path / "b")
    back.write(tmp_path / "c")
    assert (there.found, back.found) == ("published", "transformers5")
    assert sum(told) == there.size == back.size + 2 * 3 * 2 * 12 * 32 * 4
    assert len(told) == len(list((tmp_path / "b").glob("model-*.safetensors"))) > 1
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "c" / file).read_bytes()
    save_pretrained(build_model(), tmp_path / "d", layout="transformers5", max_shard_bytes=20_000)
    for path in (tmp_path / "d").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_conversion_of_dtype_excludes_the_router(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path / "full")
    Conversion(tmp_path / "full", dtype=torch.bfloat16).write(tmp_path / "half")
    save_pretrained(load_pretrained(tmp_path / "full", dtype=torch.bfloat16), tmp_path / "expected")
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "half" / file).read_bytes() == (tmp_path / "expected" / file).read_bytes()
    dtypes = {key: tensor.dtype for key, tensor in load_file(tmp_path / "half" / "model.safetensors").items()}
    assert {dtype for key, dtype in dtypes.items() if ".router." in key} == {torch.float32}
    assert {dtype for key, dtype in dtypes.items() if ".router." not in key} == {torch.bfloat16}


# Loading and saving with transformers.


@pytest.fixture
def transformers() -> Any:
    return pytest.importorskip("transformers", minversion="5.0")


def their_model(transformers: Any, folder: Path) -> tuple[Any, dict[str, Any]]:
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True, local_files_only=True
    )
    return model.eval(), report


@torch.no_grad()
@pytest.mark.parametrize(("layout", "zero_experts"), [("transformers5", 3), ("transformers5", 0), ("published", 0)])
def test_transformers_5_loads_the_folder_and_gives_our_logits(
    layout: Any, zero_experts: int, build_model: BuildModel, transformers: Any, tmp_path: Path
) -> None:
    model = build_model(zero_expert_num=zero_experts)
    save_pretrained(model, tmp_path, layout=layout, max_shard_bytes=50_000)
    theirs, report = their_model(transformers, tmp_path)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    input_ids_BT = torch.randint(0, model.config.vocab_size, (2, 33))
    assert relative_rms(model(input_ids_BT).logits, theirs(input_ids_BT).logits) < 1e-5


def test_transformers_5_cannot_load_the_published_layout_with_zero_experts(
    build_model: BuildModel, transformers: Any, tmp_path: Path
) -> None:
    """Reason for the other layout; if this fails, transformers supports the published one: update the docs."""
    save_pretrained(build_model(), tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        their_model(transformers, tmp_path)


@torch.no_grad()
def test_folders_of_transformers_5_are_read_with_any_rows_of_zero_experts(
    build_model: BuildModel, transformers: Any, tmp_path: Path
) -> None:
    config = transformers.LongcatFlashConfig(**build_model().config.to_dict())
    theirs = transformers.LongcatFlashForCausalLM(config).eval()
    theirs.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors")[IDLE].any()
    model = load_pretrained(tmp_path)
    input_ids_BT = torch.randint(0, 97, (2, 17))
    assert relative_rms(model(input_ids_BT).logits, theirs(input_ids_BT).logits) < 1e-5


@pytest.mark.parametrize("shared", [False, True])
def test_multi_token_prediction_is_found_without_a_key_in_the_configuration(
    shared: bool, build_model: BuildModel, tmp_path: Path
) -> None:
    """The published checkpoint has these tensors, but its config.json has no key for them."""
    model = build_model(num_nextn_predict_layers=1, mtp_share_embeddings=shared)
    save_pretrained(model, tmp_path / "a")
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    silent = {
        key: value for key, value in written.items() if key not in ("num_nextn_predict_layers", "mtp_share_embeddings")
    }
    (tmp_path / "a" / "config.json").write_text(json.dumps(silent))
    if shared:
        change(tmp_path / "a", lambda tensors: tensors.pop("model.mtp.embed_tokens.weight"))
    assert_equal_models(load_pretrained(tmp_path / "a"), model)
    Conversion(tmp_path / "a").write(tmp_path / "b")
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == written


# Refused checkpoints, and code that must not be executed.


def test_code_in_the_folder_of_the_weights_is_not_executed(build_model: BuildModel, tmp_path: Path) -> None:
    folder, proof = tmp_path / "poisoned", tmp_path / "executed"
    save_pretrained(build_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "configuration_longcat_flash.LongcatFlashConfig",
        "AutoModelForCausalLM": "modeling_longcat_flash.LongcatFlashForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config))
    poison = f"import pathlib; pathlib.Path({str(proof)!r}).touch()\nclass LongcatFlashConfig: pass\n"
    for name in ("configuration_longcat_flash", "modeling_longcat_flash", "__init__", "tokenization"):
        (folder / f"{name}.py").write_text(poison)
    exec(compile(poison, "poison", "exec"), {})  # noqa: S102  checks that the code would have an effect
    assert proof.exists()
    proof.unlink()
    assert_equal_models(load_pretrained(folder), build_model())
    Conversion(folder, layout="transformers5").write(tmp_path / "clean")
    assert not proof.exists()
    assert not list((tmp_path / "clean").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "clean" / "config.json").read_text())


def test_quantised_checkpoints_are_named(build_model: BuildModel, tmp_path: Path) -> None:
    key = "model.layers.0.self_attn.0.q_b_proj.weight"
    save_pretrained(build_model(), tmp_path)

    def quantise(tensors: dict[str, torch.Tensor]) -> None:
        tensors[key] = tensors[key].to(torch.float8_e4m3fn)
        tensors[f"{key}_scale_inv"] = torch.ones(1, 1)

    change(tmp_path, quantise)
    with pytest.raises(CheckpointError, match=rf"{re.escape(key)} is F8_E4M3; quantised weights cannot be read"):
        load_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="the weights are 'awq'; quantised weights of other tools cannot be read"):
        load_pretrained(tmp_path)


def test_another_architecture_is_named(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path)
    llama = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(llama))
    with pytest.raises(ModelConfigError, match="model_type = 'llama' is another architecture"):
        load_pretrained(tmp_path)


def test_a_truncated_shard_is_named(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(), tmp_path, max_shard_bytes=50_000)
    shard = sorted(tmp_path.glob("model-0*.safetensors"))[2]
    shard.write_bytes(shard.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=rf"{shard.name}: damaged"):
        load_pretrained(tmp_path)


# Memory, measured in a new process.

MEASURE = """
import re, sys
from pathlib import Path
import torch
import longcat.model.safetensors_files
import longcat.model.weights
from longcat.model.checkpoint import Conversion, load_pretrained, save_pretrained

def growth(action):
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what is there now
    before = peak()
    result = action()
    print(peak() - before)
    return result

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

longcat.model.weights.MAPPED_BYTES = longcat.model.safetensors_files.COPIED_BYTES = 1 << 20
source, saved, converted = sys.argv[1:]
growth(lambda: Conversion(source).write(converted, max_shard_bytes=8 << 20))
loaded = growth(lambda: load_pretrained(source))
growth(lambda: save_pretrained(loaded, saved))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
def test_reading_and_writing_make_no_second_copy(build_model: BuildModel, tmp_path: Path) -> None:
    save_pretrained(build_model(vocab_size=60_000, hidden_size=96, ffn_hidden_size=4000), tmp_path / "saved")
    weights = (tmp_path / "saved" / "model.safetensors").stat().st_size
    folders = [str(tmp_path / name) for name in ("saved", "again", "converted")]
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, *folders], check=True, capture_output=True, text=True, timeout=120
    )
    convert_peak, load_peak, save_peak = (int(line) / weights for line in ran.stdout.split())
    assert 1.0 <= load_peak < 1.2
    assert save_peak < 0.1
    assert convert_peak < 0.2
