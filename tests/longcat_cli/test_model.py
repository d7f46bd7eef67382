"""`longcat model`: the printed figures are those of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from longcat.cli.app import run
from longcat.model.accounting import count
from longcat.model.presets import load_preset


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["model", *arguments]) == 0
    return capfd.readouterr().out


def test_the_published_model_is_described(capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(capfd, "describe", "longcat-flash", "--context", "131072")
    for figure in ("560,664,958,976", "18.69 B", "27.15 B", "31.38 B", "64,512 B", "2,293,760 B", "8.5 GB"):
        assert figure in text, figure
    assert "n-gram" in printed(capfd, "describe", "longcat-flash-lite")


def test_json_has_every_figure_and_the_configuration(capfd: pytest.CaptureFixture[str]) -> None:
    described = json.loads(printed(capfd, "describe", "tiny", "--context", "64", "--json"))
    sizes = count(load_preset("tiny"), 64)
    assert described["total"] == sizes.total
    assert described["parameters"] == sizes.parameters
    assert described["flops_per_token_decode"] == sizes.flops_per_token_decode
    assert described["memory"]["training_fp32"] == sizes.memory.training_fp32
    assert described["config"]["moe_topk"] == 3


def test_a_folder_is_described_from_only_its_configuration(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(load_preset("smoke").to_dict()))
    assert "221,984" in printed(capfd, "describe", str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    assert run(["model", "describe", str(tmp_path)]) == 3
    assert capfd.readouterr().err == f"longcat: {tmp_path / 'config.json'}: is not a JSON object\n"


SIZES = {"hidden_size": 8192, "num_layers": 38, "n_routed_experts": 768, "zero_expert_num": 128, "vocab_size": 163840}
INDEXER = {"index_topk": 2048, "index_n_heads": 32, "index_head_dim": 128}


def config_file(folder: Path, changes: dict[str, Any]) -> Path:
    """A `config.json` like that of LongCat-2.0."""
    config = load_preset("longcat-flash").to_dict() | SIZES | INDEXER | {"architectures": ["LongcatCausalLM"]}
    config |= {"oe_vocab_size_ratio": 100.567, "oe_neighbor_num": 5, "oe_split_num": 4}
    del config["model_type"]
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_a_published_config_is_described(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The sizes of LongCat-2.0, in the form of its files."""
    text = printed(capfd, "describe", str(config_file(tmp_path, {})))
    assert "cannot be run" not in text
    for figure in ("1,638.617 B", "1,638,616,773,376", "135.05 B", "33.42 B", "48.72 B", "56.37 B"):
        assert figure in text, figure
    assert json.loads(printed(capfd, "describe", str(tmp_path), "--json"))["config"]["oe_split_num"] == 4


def test_a_model_that_cannot_be_run_is_described_and_nothing_else(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The attention modules of two layers share an indexer."""
    assert "cannot be run here" in printed(capfd, "describe", str(config_file(tmp_path, {"cli_factor": 4})))
    for command in (["generate", "--prompt", "x"], ["serve"]):
        assert run([*command, "--checkpoint", str(tmp_path)]) == 3
        said = capfd.readouterr().err
        assert "cli_factor = 4: layers that attend to the positions of another layer cannot be run here" in said
        assert len(said.splitlines()) == 1


def test_presets_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    listed = {item["name"]: item for item in json.loads(printed(capfd, "list", "--json"))}
    assert listed["longcat-flash"]["total"] == 560_664_958_976
    assert "longcat-6b" in printed(capfd, "list")
