"""Import and export of checkpoints: bitwise round trip, and use by other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longcat.cli.app import run
from longcat.model.checkpoint import load_pretrained, save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.layout import published_tensors
from longcat.model.presets import load_preset
from longcat.model.published_keys import indexer_shapes
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import ConfigError, InputError
from longcat.pipeline.progress import SilentProgress
from longcat.pipeline.tokens import TokenWriter
from longcat.stages.convert import export_checkpoint, inspect_checkpoint
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.formats.special_tokens import TOKENIZER_FILES
from longcat.stages.inference.generate import generate
from longcat.stages.inference.sampling import SamplingParams

RunStage = Callable[..., Artifact]
TEXT = "The quick brown fox jumps over the lazy dog. Größe und Maß: naïve café. 日本語のテキスト。"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of another tool: two layers of weights in the published layout, a tokenizer, and code."""
    folder = tmp_path_factory.mktemp("theirs") / "model"
    folder.mkdir()
    write_tokenizer(train([TEXT] * 8, TokenizerConfig(vocab_size=320)), folder)
    changes = {"vocab_size": 320, "max_position_embeddings": 128, "initializer_range": 0.2}
    model = LongcatFlash(ModelConfig(**{**load_preset("tiny").model_dump(), **changes}))
    initialize(model, 3)
    save_pretrained(model, folder)
    (folder / "modeling_longcat_flash.py").write_text("raise SystemExit('executed')\n")
    return folder


def export(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    return export_checkpoint(source, output, progress=SilentProgress(), **options)


@pytest.mark.parametrize("layout", ["published", "transformers5"])
def test_export_and_import_give_the_same_bytes(layout: Any, folder: Path, run_stage: RunStage, tmp_path: Path) -> None:
    imported = run_stage("import", {"folder": str(folder)})
    assert imported.manifest.counts["parameters"] == sum(p.numel() for p in load_pretrained(folder).parameters())
    result = export(imported.path, tmp_path / "out", layout=layout)
    assert result["files"] == sorted({*TOKENIZER_FILES, "config.json", "model.safetensors"})
    again = run_stage("import", {"folder": str(tmp_path / "out")})
    assert again.manifest.metrics["layout"] == layout
    assert again.id != imported.id
    for name in (*TOKENIZER_FILES, "model.safetensors", "config.json"):
        if name != "tokenizer_config.json":  # tells the context length of the model
            assert (again.path / name).read_bytes() == (folder / name).read_bytes(), name
    assert not list(again.path.glob("*.py"))


def test_the_same_folder_is_imported_once_and_a_changed_one_again(
    folder: Path, run_stage: RunStage, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    first = run_stage("import", {"folder": str(copy)})
    (copy / "modeling_longcat_flash.py").unlink()
    assert run_stage("import", {"folder": str(copy)}).id == first.id
    save_pretrained(load_pretrained(copy, dtype=torch.bfloat16), copy)
    assert run_stage("import", {"folder": str(copy)}).id != first.id


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["stored", "bfloat16"])
def test_transformers_5_loads_the_export_with_its_tokenizer(dtype: Any, folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", minversion="5.0")
    export(folder, tmp_path / "out", layout="transformers5", dtype=dtype)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    assert type(theirs).__module__ == "transformers.models.longcat_flash.modeling_longcat_flash"
    ids = tokenizer(TEXT, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == TEXT
    ours = load_pretrained(tmp_path / "out")(ids).logits
    difference = torch.linalg.vector_norm(ours - theirs(ids).logits) / torch.linalg.vector_norm(ours)
    assert difference < 1e-5


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"mla_scale_q_lora": False, "mla_scale_kv_lora": False},
        {"mla_scale_kv_lora": False, "tie_word_embeddings": True, "num_nextn_predict_layers": 1},
        {"zero_expert_num": 0},
        {"routed_scaling_factor": 9.0, "n_routed_experts": 7, "zero_expert_num": 1},
    ],
    ids=["tied", "unscaled", "tied-unscaled-mtp", "no-zero-experts", "other-share"],
)
def test_transformers_5_gives_our_logits_for_every_exported_variant(changes: dict[str, Any], tmp_path: Path) -> None:
    """The layout `published` has the same tensors, and differs in those that transformers never reads."""
    transformers = pytest.importorskip("transformers", minversion="5.0")
    config = ModelConfig(**{**load_preset("tiny").model_dump(), "vocab_size": 320, "initializer_range": 0.2, **changes})
    model = LongcatFlash(config)
    initialize(model, 3)
    save_pretrained(model, tmp_path / "own")
    export(tmp_path / "own", tmp_path / "out", layout="transformers5")
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert all(key.startswith("model.mtp.") for key in report["unexpected_keys"])
    ids = torch.randint(320, (2, 17))
    ours = model(ids).logits
    assert torch.linalg.vector_norm(theirs(ids).logits - ours) / torch.linalg.vector_norm(ours) < 1e-5
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["mla_scale_q_lora"] is written["mla_scale_kv_lora"] is True
    assert written["tie_word_embeddings"] is False


INCOMPATIBLE: dict[str, dict[str, Any]] = {
    "zero_expert_type = 'zero'": {"zero_expert_type": "zero"},
    "zero_expert_type = 'null'": {"zero_expert_type": "null"},
    "zero_expert_type = 'constant'": {"zero_expert_type": "constant"},
    "zero_expert_types = ": {"zero_expert_types": {"zero": 1, "identity": 1}, "zero_expert_num": 2},
    "moe_layout = 'interleaved'": {"moe_layout": "interleaved"},
    "gating_residual = True": {"gating_residual": True},
}


@pytest.mark.parametrize("reason", INCOMPATIBLE)
def test_what_others_would_compute_wrong_is_exported_only_if_asked(
    reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ModelConfig(**{**load_preset("tiny").model_dump(), "vocab_size": 320, **INCOMPATIBLE[reason]})
    model = LongcatFlash(config)
    initialize(model, 3)
    save_pretrained(model, tmp_path / "own")
    command = ["--store", str(tmp_path / "store"), "-q", "export", str(tmp_path / "own"), "--output"]
    assert run([*command, str(tmp_path / "out")]) == 3
    said = capfd.readouterr().err
    assert f"cannot be exported: {reason}" in said
    assert "--allow-incompatible" in said
    assert len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert run([*command, str(tmp_path / "out"), "--allow-incompatible"]) == 0
    assert f"warning: {reason}" in capfd.readouterr().err
    again = load_pretrained(tmp_path / "out")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(InputError, match=f"cannot be used elsewhere: {reason}"):
        inspect_checkpoint(tmp_path / "own")


def test_the_exported_tokenizer_tells_the_context_of_the_model(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out")
    stated = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert stated["model_max_length"] == 128
    assert stated["model_input_names"] == ["input_ids", "attention_mask"]
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    assert (tokenizer.model_max_length, tokenizer.padding_side) == (128, "left")
    assert set(tokenizer("a b", return_tensors="pt")) == {"input_ids", "attention_mask"}


def test_the_configuration_has_the_keys_required_by_vllm_and_no_misleading_ones(folder: Path, tmp_path: Path) -> None:
    export(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["zero_expert_type"] == "identity"
    assert config["mla_scale_q_lora"] is config["mla_scale_kv_lora"] is True
    assert config["architectures"] == ["LongcatFlashForCausalLM"]
    # vLLM reads it as the number of layers, transformers as that of attention modules, which is twice as large.
    assert "num_hidden_layers" not in config


def test_an_import_generates_and_trains(folder: Path, run_stage: RunStage, publish_artifact: RunStage) -> None:
    imported = run_stage("import", {"folder": str(folder)}, publish_as="theirs")
    greedy = SamplingParams(max_tokens=4, temperature=0.0)
    assert isinstance("".join(generate(imported.path, "The quick", greedy, device="cpu", threads=1)), str)
    tokens = make_tokens(publish_artifact, folder)
    config = {"steps": 1, "sequence_length": 16, "batch_size": 2, "device": "cpu", "threads": 1}
    trained = run_stage("train", config, {"tokens": tokens, "checkpoint": imported})
    assert trained.manifest.inputs["checkpoint"][0].id == imported.id
    before, after = load_pretrained(imported.path).state_dict(), load_pretrained(trained.path).state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["lm_head.weight"], after["lm_head.weight"])


def make_tokens(publish_artifact: Callable[..., Artifact], tokenizer: Path) -> Artifact:
    generator = np.random.default_rng(0)

    def fill(output: Path) -> None:
        for split in ("train", "validation"):
            with TokenWriter(output / split, 320) as writer:
                for _ in range(8):
                    writer.add_document(generator.integers(4, 320, size=60))
        for name in TOKENIZER_FILES:
            shutil.copyfile(tokenizer / name, output / name)

    return publish_artifact("70ce500000000001", "tokens", "data.pack", fill)


def test_nothing_is_overwritten_and_no_partial_output(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    export(folder, output)  # an empty folder is accepted
    before = (output / "config.json").read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        export(folder, output, dtype="bfloat16")
    assert (output / "config.json").read_bytes() == before
    with pytest.raises(InputError, match="is a file"):
        export(folder, output / "config.json")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("longcat.stages.convert._copy_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export(folder, tmp_path / "second")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def changed(folder: Path, to: Path, change: Callable[[Path], object]) -> str:
    shutil.copytree(folder, to)
    change(to)
    return str(to)


def test_a_bad_folder_is_one_error_and_no_artifact(folder: Path, run_stage: RunStage, tmp_path: Path) -> None:
    def llama(path: Path) -> None:
        (path / "config.json").write_text('{"model_type": "llama"}')

    def cut(path: Path) -> None:
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:-8])

    def pickled(path: Path) -> None:
        (path / "model.safetensors").rename(path / "pytorch_model.bin")

    def other_tokenizer(path: Path) -> None:
        write_tokenizer(train([TEXT] * 8, TokenizerConfig(vocab_size=330)), path)

    def with_a_gap(path: Path) -> None:
        state = json.loads((path / "tokenizer.json").read_text())
        state["model"]["vocab"]["zz"] = 5_000_000
        (path / "tokenizer.json").write_text(json.dumps(state))

    for change, kind, message in (
        (with_a_gap, InputError, "the tokenizer has 5000001 tokens, the model has vocab_size = 320"),
        (llama, ConfigError, "'llama' is another architecture"),
        (cut, InputError, r"model\.safetensors: damaged"),
        (pickled, InputError, r"pytorch_model\.bin is a pickled format"),
        (other_tokenizer, InputError, "the tokenizer has 330 tokens, the model has vocab_size = 320"),
    ):
        given = changed(folder, tmp_path / change.__name__, change)
        with pytest.raises(kind, match=message):
            run_stage("import", {"folder": given})
    assert not list((tmp_path / "store" / "checkpoint").glob("*"))


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A model in which two layers share an indexer, which cannot be run."""
    keys = {"index_topk": 16, "index_n_heads": 2, "index_head_dim": 32, "attention_method": "LSA", "cli_factor": 4}
    plain = load_preset("tiny").to_dict() | {"vocab_size": 320, "architectures": ["LongcatCausalLM"]}
    config = ModelConfig.from_dict({key: value for key, value in (plain | keys).items() if key != "model_type"})
    model = LongcatFlash(config.runnable_part)
    initialize(model, 3)
    (tmp_path / "sparse").mkdir()
    tensors = {**dict(published_tensors(model)), **{key: torch.ones(shape) for key, shape in indexer_shapes(config)}}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, tmp_path / "sparse" / "model.safetensors")
    (tmp_path / "sparse" / "config.json").write_text(json.dumps(config.to_dict()))
    return tmp_path / "sparse"


def test_what_cannot_be_run_is_imported_exported_and_refused_elsewhere(
    sparse: Path, folder: Path, publish_artifact: RunStage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store = ["--store", str(tmp_path / "store"), "--quiet"]
    assert run([*store, "import", str(sparse), "--name", "sparse", "--json"]) == 0
    assert run([*store, "export", "sparse", "--output", str(tmp_path / "out")]) == 0
    theirs, ours = (load_file(place / "model.safetensors") for place in (sparse, tmp_path / "out"))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(tensor, ours[key]) for key, tensor in theirs.items())
    tokens = make_tokens(publish_artifact, folder)
    capfd.readouterr()
    for command in (
        ["train", "--checkpoint", "sparse", "--tokens", tokens.id, "--steps", "1", "--name", "x"],
        ["eval", "--checkpoint", "sparse", "--tokens", tokens.id, "--name", "y"],
        ["quantize", "sparse", "--name", "x"],
        ["grow", "sparse", "--name", "x"],
        ["generate", "--checkpoint", "sparse", "--prompt", "x"],
    ):
        assert run([*store, *command]) == 3, command
        said = capfd.readouterr().err.splitlines()
        assert "of another layer cannot be run here" in said[-1], (command, said)


def test_on_the_command_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "store"), "--quiet"]
    assert run([*store, "import", str(folder), "--name", "theirs", "--json"]) == 0
    imported = json.loads(capfd.readouterr().out)
    assert (imported["kind"], imported["name"], imported["version"]) == ("checkpoint", "theirs", 1)
    arguments = ["export", "theirs@1", "--output", str(tmp_path / "out"), "--dtype", "bfloat16", "--json"]
    assert run([*store, *arguments]) == 0
    exported = json.loads(capfd.readouterr().out)
    assert exported["dtype"] == "bfloat16"
    assert Path(exported["path"]) == tmp_path / "out"
    assert exported["weight_bytes"] < imported["metrics"]["weight_bytes"]
    assert run([*store, *arguments]) == 3
    assert capfd.readouterr().err == f"longcat: {tmp_path / 'out'}: is not empty (use the name of a new folder)\n"
    fp8 = ["export", "theirs", "--output", str(tmp_path / "fp8"), "--weights", "fp8", "--json"]
    assert run([*store, *fp8, "--dtype", "float32"]) == 3
    assert "leave out the other layout or dtype" in capfd.readouterr().err
    assert not (tmp_path / "fp8").exists()
    assert run([*store, *fp8]) == 0
    small = json.loads(capfd.readouterr().out)
    assert (small["weights"], small["dtype"]) == ("fp8", "bfloat16")
    assert small["weight_bytes"] < exported["weight_bytes"]
    assert json.loads((tmp_path / "fp8" / "config.json").read_text())["quantization_config"]["quant_method"] == "fp8"
    assert run([*store, "import", str(tmp_path / "fp8"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["counts"] == imported["counts"]
    assert run([*store, "model", "describe", "theirs", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["total"] == imported["counts"]["parameters"]
