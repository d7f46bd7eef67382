"""`longcat model`: the printed figures are those of the model."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_presets_are_listed(capfd: pytest.CaptureFixture[str]) -> None:
    listed = {item["name"]: item for item in json.loads(printed(capfd, "list", "--json"))}
    assert listed["longcat-flash"]["total"] == 560_664_958_976
    assert "longcat-6b" in printed(capfd, "list")
