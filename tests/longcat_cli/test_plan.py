"""`longcat plan`: what it prints is the plan, and bad input is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from longcat.cli.app import run
from longcat.model.presets import load_preset

SMALL = ("--tokens", "1.5B", "--devices", "4", "--batch-tokens", "65536", "--layout", "pipeline=1")


def printed(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["plan", *arguments]) == 0
    return capfd.readouterr().out


def told(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["plan", *arguments]) == 3
    return capfd.readouterr().err


def test_tables_show_the_figures_of_the_json(capfd: pytest.CaptureFixture[str]) -> None:
    text = printed(capfd, "tiny", *SMALL)
    found = json.loads(printed(capfd, "tiny", *SMALL, "--json"))
    assert found["assumptions"]["tokens"] == 1_500_000_000
    steps = -(-1_500_000_000 // 65536)
    assert found["run"]["steps"] == steps
    assert found["run"]["seconds"] == pytest.approx(steps * found["step"]["seconds"])
    assert found["run"]["dollars"] == pytest.approx(2.0 * 4 * found["run"]["seconds"] / 3600)
    for figure in (
        f"{steps:,} steps",
        f"{found['serving']['cache_bytes_per_token']} B",
        f"MFU {found['run']['mfu']:.1%}",
    ):
        assert figure in text, figure
    for assumption in ("efficiency", "link_efficiency", "hidden_share", "reserve", "device_values"):
        assert assumption in text


def test_assumptions_and_device_are_changeable(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("tokens: 3B\ndevice: h100\nefficiency: 0.2\nlayout: {pipeline: 1}\n")
    arguments = ("tiny", "--config", str(file), "--devices", "4", "--set", "device_values.dollars_per_hour=1", "--json")
    slow = json.loads(printed(capfd, *arguments))
    assert (slow["device"]["name"], slow["device"]["dollars_per_hour"]) == ("h100", 1)
    fast = json.loads(printed(capfd, *arguments, "--set", "efficiency=0.4", "--tokens", "6B"))
    assert fast["step"]["compute"] == pytest.approx(slow["step"]["compute"] / 2)
    assert fast["run"]["flops"] == pytest.approx(2 * slow["run"]["flops"], rel=1e-3)


def test_a_config_file_is_a_model(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(load_preset("tiny").to_dict()))
    of_preset, of_file, of_folder = (
        json.loads(printed(capfd, model, *SMALL, "--json"))["run"]
        for model in ("tiny", str(tmp_path / "config.json"), str(tmp_path))
    )
    assert of_preset == of_file == of_folder


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tiny", "--tokens", "much"), "'tokens': expected a number such as 20T, 1.5B, 300M or 4194304"),
        (("tiny", "--device", "h8000"), "device: no device 'h8000' (did you mean 'h800'?)"),
        (("tiny", "--set", "eficiency=1"), "unknown key 'eficiency', did you mean 'efficiency'?"),
        (("tiny", "--layout", "experts=8"), "unknown key 'layout.experts', did you mean 'expert'?"),
        (("tiny", "--sequence-length", "4096"), "exceeds the model's max_position_embeddings = 1024"),
        (("longcat-flash", "--devices", "8"), "bytes a device"),
    ],
)
def test_bad_input_is_one_line(capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    text = told(capfd, *arguments)
    assert says in text
    assert text.count("\n") == 1


def test_an_unknown_model_is_missing(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "longcat-flush"]) == 4
    assert "presets: demo" in capfd.readouterr().err


def test_help_does_not_import_torch() -> None:
    code = "import sys; from longcat.cli.app import run; run(['plan', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "longcat plan longcat-flash --devices 1024 --device h800" in " ".join(done.stdout.split())
