"""Tensors that a checkpoint holds once more for other programs, and those that no program reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.checkpoint import Conversion, load_pretrained, save_pretrained, save_quantized
from longcat.model.errors import CheckpointError
from longcat.model.published_keys import EMBEDDING, HEAD, MTP_EMBEDDING
from longcat.model.transformer import LongcatFlash

BuildModel = Callable[..., LongcatFlash]
SHARED = {"tie_word_embeddings": True, "num_nextn_predict_layers": 1, "mtp_share_embeddings": True}


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture
def saved(build_model: BuildModel, tmp_path: Path) -> Path:
    save_pretrained(build_model(**SHARED), tmp_path / "saved")
    return tmp_path / "saved"


def test_a_shared_table_is_written_for_each_of_its_parts(build_model: BuildModel, saved: Path, tmp_path: Path) -> None:
    """vLLM, SGLang and mlx-lm have parameters of these names and no tying for this architecture."""
    tensors = load_file(saved / "model.safetensors")
    for key in (HEAD, MTP_EMBEDDING):
        assert torch.equal(tensors[key], tensors[EMBEDDING])
    loaded = load_pretrained(saved)
    assert (loaded.lm_head, loaded.config) == (None, build_model(**SHARED).config)
    save_quantized(build_model(**SHARED), tmp_path / "fp8", "fp8")
    quantized = load_file(tmp_path / "fp8" / "model.safetensors")
    assert torch.equal(quantized[HEAD], quantized[EMBEDDING])
    assert load_pretrained(tmp_path / "fp8", quantized="read").lm_head is None


@pytest.mark.parametrize("key", [HEAD, MTP_EMBEDDING])
def test_copies_may_be_absent(key: str, build_model: BuildModel, saved: Path, tmp_path: Path) -> None:
    rewrite(saved, lambda tensors: tensors.pop(key))
    Conversion(saved).write(tmp_path / "again")
    assert key in load_file(tmp_path / "again" / "model.safetensors")
    assert torch.equal(load_pretrained(saved).output_weight, build_model(**SHARED).output_weight)


DIFFERENT: list[tuple[Callable[[dict[str, torch.Tensor]], Any], str]] = [
    (
        lambda tensors: tensors[HEAD][41, 7].add_(1),
        rf"{HEAD} differs from {EMBEDDING} in row 41, .*tie_word_embeddings",
    ),
    (
        lambda tensors: tensors[MTP_EMBEDDING][0].zero_(),
        rf"{MTP_EMBEDDING} differs .* in row 0, .*mtp_share_embeddings",
    ),
    (lambda tensors: tensors.update({HEAD: tensors[HEAD].double()}), rf"{HEAD} is F64 and {EMBEDDING} F32"),
    (lambda tensors: tensors.update({HEAD: torch.zeros(96, 32)}), rf"{HEAD} has the shape \(96, 32\)"),
]


@pytest.mark.parametrize(("change", "message"), DIFFERENT, ids=range(len(DIFFERENT)))
def test_a_copy_with_other_values_is_named(
    change: Callable[[dict[str, torch.Tensor]], Any], message: str, saved: Path
) -> None:
    rewrite(saved, change)
    for read in (load_pretrained, Conversion):
        with pytest.raises(CheckpointError, match=message) as caught:
            read(saved)
        assert "\n" not in str(caught.value)


def test_rotary_frequencies_are_not_read(build_model: BuildModel, saved: Path, tmp_path: Path) -> None:
    keys = [f"model.layers.0.self_attn.{place}rotary_emb.inv_freq" for place in ("", "0.", "1.")]
    rewrite(saved, lambda tensors: tensors.update({key: torch.tensor([float("nan")]) for key in keys}))
    Conversion(saved).write(tmp_path / "again")
    assert not set(keys) & load_file(tmp_path / "again" / "model.safetensors").keys()
    assert torch.equal(load_pretrained(saved).output_weight, build_model(**SHARED).output_weight)


@torch.no_grad()
@pytest.mark.parametrize("unscaled", [("q",), ("kv",), ("q", "kv")])
def test_a_standalone_conversion_has_nothing_of_ours_and_the_same_logits(
    unscaled: tuple[str, ...], build_model: BuildModel, tmp_path: Path
) -> None:
    changes = {f"mla_scale_{name}_lora": False for name in unscaled}
    model = build_model(**SHARED, **changes, zero_expert_types={"identity": 3})
    save_pretrained(model, tmp_path / "own")
    Conversion(tmp_path / "own", standalone=True).write(tmp_path / "standalone")
    config = json.loads((tmp_path / "standalone" / "config.json").read_text())
    assert {key: config[key] for key in ("tie_word_embeddings", "mla_scale_q_lora", "mla_scale_kv_lora")} == {
        "tie_word_embeddings": False,
        "mla_scale_q_lora": True,
        "mla_scale_kv_lora": True,
    }
    assert not {"mtp_share_embeddings", "zero_expert_types"} & config.keys()
    other, ids = load_pretrained(tmp_path / "standalone"), torch.randint(97, (2, 19))
    for ours, theirs in zip(predicted(model, ids), predicted(other, ids), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5 * float(ours.abs().max()))
    half = Conversion(tmp_path / "own", standalone=True, dtype=torch.bfloat16)
    half.write(tmp_path / "half")
    name = "model.mtp.layers.0.self_attn.kv_a_layernorm.weight"
    scale = 2**0.5 if "kv" in unscaled else 1.0
    expected = (load_file(tmp_path / "own" / "model.safetensors")[name] / scale).bfloat16()
    assert torch.equal(load_file(tmp_path / "half" / "model.safetensors")[name], expected)  # rounded once


def predicted(model: LongcatFlash, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the next token and of the one after it."""
    output = model(ids)
    return output.logits, model.mtp_forward(output.hidden_BTD, ids.roll(-1, 1)).logits
