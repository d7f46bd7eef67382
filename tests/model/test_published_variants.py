"""Every published LongCat architecture: its config.json is read, described and written back, its tensors are kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.model.accounting import count
from longcat.model.attention.sparse_index import SparseIndex
from longcat.model.checkpoint import Conversion, load_config, load_pretrained, reading, save_pretrained, save_quantized
from longcat.model.config import ModelConfig
from longcat.model.errors import CheckpointError, ModelConfigError
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.rows import Rows
from longcat.model.transformer import LongcatFlash

SHARED: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "kv_lora_rank": 512,
    "mla_scale_kv_lora": True, "mla_scale_q_lora": True, "moe_topk": 12, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "rms_norm_eps": 1e-5, "use_cache": True, "v_head_dim": 128, "zero_expert_type": "identity",
}  # fmt: skip
FLASH = SHARED | {
    "architectures": ["LongcatFlashForCausalLM"], "attention_method": "MLA", "expert_ffn_hidden_size": 2048,
    "ffn_hidden_size": 12288, "hidden_size": 6144, "max_position_embeddings": 131072, "model_type": "longcat_flash",
    "n_routed_experts": 512, "num_attention_heads": 64, "num_layers": 28, "rope_theta": 10000000.0,
    "routed_scaling_factor": 6.0, "vocab_size": 131072, "zero_expert_num": 256,
}  # fmt: skip
YARN = {"factor": 10, "original_max_position_embeddings": 32768, "beta_fast": 32, "beta_slow": 1, "mscale": 1,
        "mscale_all_dim": 1}  # fmt: skip
LITE = FLASH | {
    "architectures": ["LongcatFlashNgramForCausalLM"], "emb_neighbor_num": 4, "emb_split_num": 4,
    "expert_ffn_hidden_size": 1024, "ffn_hidden_size": 6144, "hidden_size": 3072, "max_position_embeddings": 327680,
    "model_type": "longcat_flash_ngram", "n_routed_experts": 256, "ngram_vocab_size_ratio": 78,
    "num_attention_heads": 32, "num_layers": 14, "rope_scaling": YARN | {"rope_type": "yarn"}, "rope_theta": 5000000.0,
    "zero_expert_num": 128,
}  # fmt: skip
SPARSE = SHARED | {
    "architectures": ["LongcatCausalLM"], "attention_method": "LSA", "cli_factor": 2, "expert_ffn_hidden_size": 1024,
    "ffn_hidden_size": 6144, "hidden_size": 3072, "index_head_dim": 128, "index_init_tokens": 16,
    "index_k_norm_type": "rms", "index_local_tokens": 1024, "index_n_heads": 16, "index_topk": 2048,
    "max_position_embeddings": 983040, "mtp_num_layers": 1, "n_routed_experts": 256, "num_attention_heads": 32,
    "num_layers": 14, "oe_neighbor_num": 4, "oe_split_num": 4, "oe_vocab_size_ratio": 78,
    "rope_scaling": YARN | {"rope_type": "deepseek_yarn", "factor": 120, "original_max_position_embeddings": 8192},
    "rope_theta": 1000000.0, "routed_scaling_factor": 6.0, "use_mla": 1, "vocab_size": 131072, "zero_expert_num": 128,
}  # fmt: skip
SECOND = SPARSE | {
    "attention_method": "MLA", "dsa_mtp_cli": True, "expert_ffn_hidden_size": 2048, "ffn_hidden_size": 12288,
    "hidden_size": 8192, "index_n_heads": 32, "max_position_embeddings": 262144, "moe_impl": "mix",
    "moe_switch_token_num": 1024, "mtp_disable_over_tokenizer": True, "mtp_num_layers": 3,
    "mtp_replicate_modules": True, "n_routed_experts": 768, "num_attention_heads": 64, "num_layers": 38,
    "oe_neighbor_num": 5, "oe_vocab_size_ratio": 100.567, "routed_scaling_factor": 9, "vocab_size": 163840,
}  # fmt: skip
THINKING = FLASH | {"eos_token_id": [2, 7], "rope_scaling": YARN | {"type": "deepseek_yarn"}}
PUBLISHED = {"flash": FLASH, "thinking": THINKING, "lite": LITE, "lite-sparse": SPARSE, "2.0": SECOND}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_key_is_written_back(name: str) -> None:
    config = ModelConfig.from_dict(PUBLISHED[name])
    written = config.to_dict()
    expected = PUBLISHED[name]
    if name == "thinking":  # transformers knows only one of the two names
        expected = expected | {"rope_scaling": YARN | {"rope_type": "yarn"}}
    assert {key: written.get(key) for key in expected} == expected
    assert written.get("model_type") == expected.get("model_type")
    assert ModelConfig.from_dict(written) == config
    assert ModelConfig.from_dict(config.model_dump()) == config
    json.dumps(written)


# Elements in the files of LongCat-2.0 without multi-token prediction, less its selection biases.
SECOND_TOTAL = 1_638_616_807_424 - 38 * 896


@pytest.mark.parametrize(
    ("name", "total", "activated"),
    [
        ("flash", 560_664_958_976, (18.69, 27.15, 31.38)),
        ("lite", 68_562_459_648, (2.93, 3.99, 4.52)),
        ("lite-sparse", 68_612_694_784, (2.98, 4.04, 4.57)),
        ("2.0", SECOND_TOTAL, (33.42, 48.72, 56.37)),
    ],
)
def test_totals_are_the_published_ones(name: str, total: int, activated: tuple[float, ...]) -> None:
    """560.665 B, 68.56 B, 68.61 B (69 B on its card) and 1,638.6 B; about 27, 3, 3 and 48 B are active."""
    sizes = count(ModelConfig.from_dict(PUBLISHED[name]))
    assert sizes.total == total == sum(sizes.parameters.values())
    found = sizes.activated_min, sizes.activated_reported, sizes.activated_max
    assert tuple(round(value / 1e9, 2) for value in found) == activated
    assert sizes.memory.weights_bf16 > 2 * total


@pytest.mark.parametrize(("name", "published"), [("longcat-flash-lite-sparse", SPARSE), ("longcat-2.0", SECOND)])
def test_presets_of_sparse_models_are_the_published_ones(name: str, published: dict[str, Any]) -> None:
    preset, theirs = load_preset(name), ModelConfig.from_dict(published)
    same = {"attention_method": "LSA", "sparse_index": preset.sparse_index}
    assert preset == theirs.model_copy(update=same)
    assert preset.sparse_index is not None
    assert theirs.sparse_index is not None
    assert preset.sparse_index.options() == theirs.sparse_index.options()


def test_two_thirds_of_the_selected_experts_are_the_mean_where_their_share_is() -> None:
    sizes = count(load_preset("longcat-flash"))
    assert sizes.activated_reported == sizes.activated_mean
    assert count(ModelConfig.from_dict(SECOND)).mean_ffn_experts == pytest.approx(12 * 768 / 896)


TINY = {
    "vocab_size": 64, "hidden_size": 48, "ffn_hidden_size": 32, "expert_ffn_hidden_size": 16, "num_layers": 2,
    "num_attention_heads": 2, "q_lora_rank": 24, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "zero_expert_num": 2, "moe_topk": 2, "max_position_embeddings": 128,
}  # fmt: skip
TINY_SPARSE = SPARSE | TINY | {
    "index_n_heads": 2, "index_head_dim": 16, "index_topk": 16, "index_init_tokens": 2, "index_local_tokens": 4,
    "oe_vocab_size_ratio": 2.5,
}  # fmt: skip
INDEXER = {"wq_b": (32, 24), "wk": (16, 48), "k_norm": (16,), "weights_proj": (2, 48)}


def write_sparse(folder: Path, **changes: Any) -> dict[str, torch.Tensor]:
    """A tiny file set like Lite-Sparse, with its spelling, indexers, and tables of multi-token prediction as in 2.0."""
    published = TINY_SPARSE | changes
    dense = {key: value for key, value in published.items() if key not in SparseIndex.model_fields}
    config = ModelConfig.from_dict(dense | {"attention_method": "MLA", "num_nextn_predict_layers": 1})
    model = LongcatFlash(config)
    initialize(model, 1)
    save_pretrained(model, folder)
    tensors = load_file(folder / "model.safetensors")
    for key in [key for key in tensors if "ngram_embeddings" in key]:
        _, _, kind, place, _ = key.split(".")
        name = {"embedders": "tokens", "post_projs": "proj"}[kind]
        tensors[f"model.oe_embed_{name}{place}.weight"] = tensors[key]
        tensors[f"model.mtp.oe_embed_{name}{place}.weight"] = tensors.pop(key) + 1
    for place in ("model.layers.0.self_attn.0", "model.layers.1.self_attn.0", "model.mtp.layers.0.self_attn"):
        tensors |= {f"{place}.indexer.{name}.weight": torch.randn(shape) for name, shape in INDEXER.items()}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(published))
    return tensors


def test_indexers_and_tables_are_carried_through_import_and_export(tmp_path: Path) -> None:
    tensors = write_sparse(tmp_path / "theirs")
    imported = Conversion(tmp_path / "theirs")
    imported.write(tmp_path / "imported")
    Conversion(tmp_path / "imported", standalone=True, dtype=torch.float32).write(tmp_path / "exported")
    for name in ("imported", "exported"):
        found = load_file(tmp_path / name / "model.safetensors")
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
        written = json.loads((tmp_path / name / "config.json").read_text())
        assert {key: written.get(key) for key in TINY_SPARSE} == TINY_SPARSE
        assert "model_type" not in written
    assert imported.config.unreadable_elsewhere() is None
    with pytest.raises(ModelConfigError, match="use the layout published"):
        Conversion(tmp_path / "theirs", layout="transformers5")


def test_what_cannot_be_run_is_refused_by_name_before_the_weights_are_read(tmp_path: Path) -> None:
    """One indexer for two layers."""
    write_sparse(tmp_path, cli_factor=4)
    assert load_config(tmp_path).sparse_index is not None
    (tmp_path / "model.safetensors").write_bytes(b"")
    message = r"config\.json: cli_factor = 4: .* cannot be run here"
    with pytest.raises(ModelConfigError, match=message):
        load_pretrained(tmp_path)
    with pytest.raises(ModelConfigError, match=message), reading(tmp_path):
        pass
    with pytest.raises(ModelConfigError, match="cannot be run here"):
        LongcatFlash(load_config(tmp_path))


@torch.no_grad()
def test_an_imported_model_with_indexers_runs_and_is_exported_under_published_names(tmp_path: Path) -> None:
    """Kind `lsa` with the stored indexers; trained options of ours are beside the published keys."""
    tensors = write_sparse(tmp_path / "theirs")
    Conversion(tmp_path / "theirs").write(tmp_path / "own")
    model = load_pretrained(tmp_path / "own")
    first, second = model.model.layers[1].self_attn
    assert [first.kind, second.kind, first.owns, second.owns] == ["lsa", "lsa", True, False]
    assert (first.count, first.always, first.indexer.heads) == (16, (2, 4), 2)
    for name in INDEXER:
        stored = tensors[f"model.layers.1.self_attn.0.indexer.{name}.weight"]
        assert torch.equal(first.indexer.get_parameter(f"{name}.weight"), stored)
    ids = torch.randint(4, 64, (1, 40), generator=torch.Generator().manual_seed(0))
    logits = model(ids).logits
    changed = load_pretrained(tmp_path / "own")
    for layer in changed.model.layers:
        layer.self_attn[0].indexer.wk.weight.mul_(-1)
    assert not torch.allclose(changed(ids).logits[:, 20:], logits[:, 20:])
    torch.testing.assert_close(changed(ids).logits[:, :16], logits[:, :16])
    rows = Rows(model, 1, 40)
    found = torch.cat([rows.append(piece).logits for piece in ids.split([30, *[1] * 10], dim=1)], dim=1)
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)
    save_pretrained(model, tmp_path / "saved")
    Conversion(tmp_path / "saved", standalone=True, dtype=torch.float32).write(tmp_path / "out")
    again = load_file(tmp_path / "out" / "model.safetensors")
    kept = {key for key in tensors if "model.mtp.oe_embed" not in key}  # tables that are carried and not run
    assert kept <= again.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in kept)


def test_options_of_the_kind_and_published_keys_are_one_configuration() -> None:
    """`attention: {kind: lsa}` is written as published keys; what these lack stays under `attention`."""
    plain = {key: value for key, value in (FLASH | TINY).items() if key not in ("architectures", "model_type")}
    given = {"kind": "lsa", "index_topk": 16, "index_head_dim": 16, "index_init_tokens": 2, "index_local_tokens": 4}
    config = ModelConfig.from_dict(plain | {"attention": given})
    written = config.to_dict()
    assert (written["index_topk"], written["index_n_heads"], written["attention_method"]) == (16, 1, "LSA")
    assert "attention" not in written
    assert config.unreadable_elsewhere() is None
    own = ModelConfig.from_dict(plain | {"attention": given | {"distillation": "sparse"}})
    assert own.to_dict()["attention"] == {"kind": "lsa", "distillation": "sparse"}
    assert ModelConfig.from_dict(own.to_dict()) == own
    assert own.mixer(1).options.index_topk == 16
    assert own.unreadable_elsewhere() is None
    with pytest.raises(ModelConfigError, match="attention = 'mla' and index_topk exclude each other"):
        ModelConfig.from_dict(written | {"attention": "mla"})
    pattern = ModelConfig.from_dict(TINY_SPARSE | {"index_topk_pattern": ["C", "C", "C", "S"]})
    owned = [one.owns for layer in LongcatFlash(pattern).model.layers for one in layer.self_attn]
    assert owned == [True, True, True, False]


LOST: list[tuple[str, str]] = [
    ("model.layers.1.self_attn.0.indexer.wk.weight", "is missing"),
    ("model.mtp.layers.0.self_attn.indexer.k_norm.weight", "is missing"),
    ("model.oe_embed_proj3.weight", r"model\.ngram_embeddings\.post_projs\.3\.weight is missing"),
]


@pytest.mark.parametrize(("key", "message"), LOST)
def test_a_lost_or_misplaced_tensor_is_named(key: str, message: str, tmp_path: Path) -> None:
    tensors = write_sparse(tmp_path)
    taken = tensors.pop(key)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Conversion(tmp_path)
    save_file(tensors | {key: taken.flatten()[:-1].clone()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has the shape|rows"):
        Conversion(tmp_path)
    elsewhere = "model.layers.0.self_attn.1.indexer.wk.weight"
    save_file(tensors | {key: taken, elsewhere: torch.ones(16, 48)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{elsewhere} is unexpected"):
        Conversion(tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("typed", [True, False])
def test_both_spellings_of_n_gram_tables_give_the_same_model(typed: bool, tmp_path: Path) -> None:
    published = LITE | TINY | {"ngram_vocab_size_ratio": 2.5}
    model = LongcatFlash(ModelConfig.from_dict(published))
    initialize(model, 2)
    save_pretrained(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["model_type"], written["architectures"]) == (LITE["model_type"], LITE["architectures"])
    tensors = load_file(tmp_path / "model.safetensors")
    other = {
        key.replace("model.ngram_embeddings.embedders.", "model.oe_embed_tokens").replace(
            "model.ngram_embeddings.post_projs.", "model.oe_embed_proj"
        ): tensor
        for key, tensor in tensors.items()
    }
    assert other.keys() != tensors.keys()
    save_file(other, tmp_path / "model.safetensors")
    spelled = {"ngram_vocab_size_ratio": "oe_vocab_size_ratio", "emb_neighbor_num": "oe_neighbor_num",
               "emb_split_num": "oe_split_num"}  # fmt: skip
    kept = published if typed else {key: value for key, value in published.items() if key != "model_type"}
    (tmp_path / "config.json").write_text(json.dumps({spelled.get(key, key): value for key, value in kept.items()}))
    ids = torch.randint(64, (2, 11))
    assert torch.equal(load_pretrained(tmp_path)(ids).logits, model(ids).logits)
    Conversion(tmp_path).write(tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert torch.equal(load_pretrained(tmp_path / "again")(ids).logits, model(ids).logits)


def test_a_table_in_both_spellings_is_refused(tmp_path: Path) -> None:
    tensors = write_sparse(tmp_path)
    double = {"model.ngram_embeddings.embedders.0.weight": tensors["model.oe_embed_tokens0.weight"].clone()}
    save_file(tensors | double, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"holds 'model\.ngram_embeddings\.embedders\.0\.weight', which is also in"
    ):
        Conversion(tmp_path)


@torch.no_grad()
def test_fp8_files_with_n_gram_tables_are_read_and_written(tmp_path: Path) -> None:
    """As published: tables and their projections stay bfloat16, like routers, norms and the output projection."""
    model = LongcatFlash(ModelConfig.from_dict(LITE | TINY | {"ngram_vocab_size_ratio": 2.5}))
    initialize(model, 2)
    save_quantized(model, tmp_path / "fp8", "fp8")
    stored = load_file(tmp_path / "fp8" / "model.safetensors")
    key = "model.layers.0.self_attn.0.q_b_proj.weight"
    assert (stored[key].dtype, stored[f"{key}_scale_inv"].shape) == (torch.float8_e4m3fn, (1, 1))
    assert {tensor.dtype for name, tensor in stored.items() if "ngram_embeddings" in name} == {torch.bfloat16}
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    extended = config["quantization_config"] | {"ignored_layers": ["lm_head"]}
    changed = config | {"quantization_config": extended, "disable_quant_module": []}
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(changed))
    Conversion(tmp_path / "fp8").write(tmp_path / "plain")
    expected = load_pretrained(tmp_path / "fp8", quantized="fp8", dtype=torch.bfloat16).state_dict()
    found = load_pretrained(tmp_path / "plain", dtype=torch.bfloat16).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name, tensor in model.state_dict().items():
        assert torch.linalg.vector_norm(found[name] - tensor) <= 0.04 * torch.linalg.vector_norm(tensor), name


@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3, 70])
def test_queries_without_a_latent_are_one_product(tokens: int) -> None:
    """For few tokens and for many, which take different versions of the projections."""
    config = ModelConfig.from_dict(FLASH | TINY | {"q_lora_rank": None})
    written = config.to_dict()
    assert (written["q_lora_rank"], written["mla_scale_q_lora"], config.mla_scale_kv_lora) == (None, False, True)
    model = LongcatFlash(config)
    initialize(model, 4)
    mixer = model.model.layers[0].self_attn[0]
    where = model.context(torch.zeros(1, tokens, dtype=torch.int64))
    x_BTD = torch.randn(1, tokens, 48)
    found = mixer.project(x_BTD, where)
    q_BTHQ = (x_BTD.double() @ mixer.q_proj.weight.double().T).unflatten(-1, (2, 16))
    angles_T1P = where.angles[8].unsqueeze(1)
    even, odd = q_BTHQ[..., 8::2], q_BTHQ[..., 9::2]
    turned = (even * angles_T1P.cos() - odd * angles_T1P.sin(), even * angles_T1P.sin() + odd * angles_T1P.cos())
    torch.testing.assert_close(found.q_nope_BTHN.double(), q_BTHQ[..., :8], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.q_rope_BTHR.double(), torch.stack(turned, -1).flatten(-2), rtol=0, atol=1e-5)


@torch.no_grad()
def test_a_model_without_query_latents_is_imported_and_exported(tmp_path: Path) -> None:
    model = LongcatFlash(ModelConfig.from_dict(FLASH | TINY | {"q_lora_rank": None, "num_nextn_predict_layers": 1}))
    initialize(model, 4)
    save_pretrained(model, tmp_path / "own")
    assert "model.mtp.layers.0.self_attn.q_proj.weight" in load_file(tmp_path / "own" / "model.safetensors")
    Conversion(tmp_path / "own", standalone=True).write(tmp_path / "out")
    again, ids = load_pretrained(tmp_path / "out"), torch.randint(64, (1, 9))
    assert torch.equal(again(ids).logits, model(ids).logits)
    save_quantized(model, tmp_path / "fp8", "fp8")
    assert "model.layers.0.self_attn.0.q_proj.weight_scale_inv" in load_file(tmp_path / "fp8" / "model.safetensors")
    with pytest.raises(ModelConfigError, match="queries without a latent"):
        Conversion(tmp_path / "own", layout="transformers5")
    assert count(model.config).parameters["attention"] == 4 * (32 * 48 + 24 * 48 + 32 * 16 + 48 * 16)


CONTRADICTIONS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (FLASH, {"model_type": "longcat_flash_ngram"}, "model_type = 'longcat_flash_ngram' needs ngram_vocab_size_ratio"),
    (LITE, {"oe_vocab_size_ratio": 77}, "oe_vocab_size_ratio = 77 contradicts ngram_vocab_size_ratio = 78"),
    (LITE, {"oe_split_num": 2}, "oe_split_num = 2 contradicts emb_split_num = 4"),
    (FLASH, {"attention_method": "LSA"}, "attention_method = 'LSA' needs the keys of an indexer; the key index_topk"),
    (FLASH, {"use_longcat_dsa": True}, "use_longcat_dsa = True needs the keys of an indexer"),
    (
        SPARSE,
        {"use_longcat_dsa": False},
        "attention_method = 'LSA' needs the keys of an indexer; use_longcat_dsa = Fal",
    ),
    (SPARSE, {"q_lora_rank": None}, "index_topk needs q_lora_rank"),
    (SPARSE, {"index_topk": None}, "index_topk = .*: Field required"),
    (SPARSE, {"index_topk": 1039}, "index_init_tokens [+] index_local_tokens = 1040 exceed index_topk = 1039"),
    (SPARSE, {"index_topk": True}, "index_topk = True: "),
    (SPARSE, {"index_n_heads": 1 << 40}, "index_n_heads = 1099511627776: "),
    (SPARSE, {"index_k_norm_type": "layer"}, "index_k_norm_type = 'layer': "),
    (SPARSE, {"index_topk_pattern": ["C"] * 27}, "index_topk_pattern has 27 entries"),
    (SPARSE, {"index_topk_pattern": ["S"] * 28}, "index_topk_pattern has 28 entries and begins with 'S'"),
    (SPARSE, {"index_topk_pattern": "CS"}, "index_topk_pattern"),
    (SPARSE, {"cli_factor": 0}, "cli_factor = 0: "),
    (SECOND, {"mtp_replicate_modules": False}, "mtp_replicate_modules = False: "),
    (SECOND, {"mtp_replicate_modules": None}, "mtp_num_layers = 3 needs mtp_replicate_modules = True"),
    (SECOND, {"index_more": 3}, "unknown key index_more = 3"),
    (FLASH, {"eos_token_id": []}, r"eos_token_id = \[\] is no token id"),
    (FLASH, {"eos_token_id": [2, 2]}, r"eos_token_id = \[2, 2\] is no token id"),
    (FLASH, {"eos_token_id": [2, True]}, "eos_token_id = .* is no token id"),
    (FLASH, {"eos_token_id": [2, "3"]}, "eos_token_id = .* is no token id"),
    (FLASH, {"eos_token_id": list(range(65))}, "eos_token_id = .* is no token id"),
    (FLASH, {"eos_token_id": [2, 131072]}, "eos_token_id: 131072 is outside vocab_size"),
    (FLASH, {"eos_token_id": [131072, 2]}, "eos_token_id = 131072 is outside vocab_size"),
    (FLASH, {"eos_token_id": [-1]}, "eos_token_id = -1: "),
    (FLASH, {"architectures": ["LongcatFlashForCausalLM", "x"]}, "architectures = .* is not supported"),
    (FLASH, {"rope_scaling": YARN | {"rope_type": "dynamic"}}, "rope_scaling = .* only the plain rotary embedding"),
    (FLASH, {"rope_scaling": YARN | {"rope_type": ["yarn"]}}, "rope_scaling = .* only the plain rotary embedding"),
    (
        FLASH,
        {"rope_scaling": {"rope_type": "default", "type": "yarn"}},
        "rope_scaling = .*: type and rope_type contradict",
    ),
    (FLASH, {"rope_scaling": YARN | {"rope_type": "yarn", "type": "deepseek_yarn"}}, "rope_scaling = .* contradict"),
    (FLASH, {"head_dim": True}, "head_dim = True is not supported, expected 64"),
    (FLASH, {"attention_bias": 0}, "attention_bias = 0 is not supported, expected False"),
]


@pytest.mark.parametrize(("published", "change", "message"), CONTRADICTIONS, ids=range(len(CONTRADICTIONS)))
def test_contradictions_are_one_line_that_names_the_key(
    published: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelConfigError, match=f"^c: {message}") as caught:
        ModelConfig.from_dict(published | change, source="c")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
