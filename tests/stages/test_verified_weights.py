"""Checkpoints of the store are compared with their manifests before use."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longcat.cli.app import run
from longcat.model.checkpoint import save_pretrained
from longcat.model.config import ModelConfig
from longcat.model.init import initialize
from longcat.model.presets import load_preset
from longcat.model.transformer import LongcatFlash
from longcat.pipeline.artifact import Artifact
from longcat.pipeline.errors import IntegrityError, MachineError
from longcat.pipeline.progress import SilentProgress
from longcat.pipeline.verification import check_top_files
from longcat.stages.convert import export_checkpoint
from longcat.stages.data.tokenizer.bpe import train
from longcat.stages.data.tokenizer.config import TokenizerConfig
from longcat.stages.data.tokenizer.files import write_tokenizer
from longcat.stages.inference.loading import load_engine, load_model

RunStage = Callable[..., Artifact]


@pytest.fixture
def artifact(run_stage: RunStage, tmp_path: Path) -> Artifact:
    folder = tmp_path / "theirs"
    folder.mkdir()
    write_tokenizer(train(["a fox and a dog"] * 8, TokenizerConfig(vocab_size=300)), folder)
    model = LongcatFlash(ModelConfig(**{**load_preset("tiny").model_dump(), "vocab_size": 300}))
    initialize(model, 3)
    save_pretrained(model, folder)
    return run_stage("import", {"folder": str(folder)}, publish_as="theirs")


def flip(path: Path) -> None:
    """Flip one bit of the last value: size and header stay the same, and values stay finite."""
    data = bytearray(path.read_bytes())
    data[-4] ^= 1
    path.write_bytes(data)


DAMAGES: list[tuple[Callable[[Path], Any], str, str]] = [
    (lambda folder: flip(folder / "model.safetensors"), "model.safetensors", "its sha256 differs from the manifest"),
    (lambda folder: flip(folder / "tokenizer.json"), "tokenizer.json", "its sha256 differs from the manifest"),
    (lambda folder: (folder / "chat_template.jinja").write_text("{{ 1 }}"), "chat_template.jinja", "its size differs"),
    (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config.json", "is missing"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("{}"), "index.json", "is not in the manifest"),
    (lambda folder: (folder / "new.json").symlink_to("/etc/hostname"), "new.json", "is a link"),
]


@pytest.mark.parametrize(("damage", "name", "message"), DAMAGES, ids=range(len(DAMAGES)))
def test_changed_files_are_not_read(
    damage: Callable[[Path], Any], name: str, message: str, artifact: Artifact, tmp_path: Path
) -> None:
    damage(artifact.path)
    for read in (
        lambda: load_engine(artifact.path, device="cpu", threads=1),
        lambda: export_checkpoint(artifact.path, tmp_path / "out", progress=SilentProgress()),
    ):
        with pytest.raises(IntegrityError, match=message) as caught:
            read()
        assert f"{name}: " in str(caught.value)
        assert f"longcat artifacts verify {artifact.id}" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_every_command_reports_changed_files(
    artifact: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flip(artifact.path / "model.safetensors")
    store = ["--store", str(tmp_path / "store")]
    for command in (
        ["generate", "--checkpoint", "theirs", "--prompt", "a", "--device", "cpu"],
        ["chat", "--checkpoint", "theirs", "--device", "cpu"],
        ["serve", "--checkpoint", "theirs", "--port", "0", "--device", "cpu"],
        ["export", "theirs", "--output", str(tmp_path / "out")],
    ):
        assert run([*store, *command]) == 5, command
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"longcat: {artifact.path}/model.safetensors: its sha256 differs from the manifest")


def test_intact_checkpoints_are_read_from_any_path(artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    assert load_engine(copy, device="cpu", threads=1).tokenizer.encode("a fox")
    (copy / "training").mkdir()
    (copy / "training" / "notes.txt").write_text("of another tool")
    check_top_files(copy)
    (copy / "manifest.json").unlink()
    flip(copy / "model.safetensors")
    check_top_files(copy)  # not an artifact, so no manifest


def test_progress_is_shown_only_for_large_files(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(SilentProgress):
        def __init__(self) -> None:
            self.tasks: list[str] = []

        def task(self, description: str, **options: Any) -> Any:
            self.tasks.append(description)
            return super().task(description, **options)

    seen = Seen()
    check_top_files(artifact.path, seen)
    assert seen.tasks == []
    monkeypatch.setattr("longcat.pipeline.verification.SILENT_BYTES", 0)
    check_top_files(artifact.path, seen)
    assert seen.tasks == ["checking"]


def test_out_of_memory_is_one_line_and_not_damage(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr("longcat.stages.inference.loading.load_pretrained", refuse)
    with pytest.raises(MachineError, match="not enough memory for the weights") as caught:
        load_model(artifact.path, device="cpu")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    "text", ["[]", "3", "[" * 100_000, "{", '{"eos_token_id": NaN}', '{"eos_token_id": 1, "eos_token_id": 2}']
)
def test_an_invalid_generation_config(text: str, artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    (copy / "manifest.json").unlink()
    (copy / "generation_config.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"generation_config\.json: (is not a JSON object|cannot be read)"):
        load_engine(copy, device="cpu", threads=1)


@pytest.mark.parametrize("ids", [None, "2", [], [2, "x", -1, 1 << 70, True], {"a": 1}, 1 << 70, 2.5])
def test_invalid_stop_tokens_are_ignored(ids: Any, artifact: Artifact, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(artifact.path, copy)
    (copy / "manifest.json").unlink()
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    assert load_engine(copy, device="cpu", threads=1).stop_token_ids == frozenset({2})
