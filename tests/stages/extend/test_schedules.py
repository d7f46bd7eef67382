"""Bundled schedules of `extend`, and the order of phases."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from longcat.cli.app import run
from longcat.pipeline.config import build_config, identity_values
from longcat.pipeline.errors import ConfigError
from longcat.stages.extend.config import ExtendConfig
from longcat.stages.extend.schedules import load_schedule, schedule_names

PHASE = {"sequence_length": 600, "rope_theta": 5e6, "steps": 3}


def config(**values: Any) -> ExtendConfig:
    return build_config(ExtendConfig, values, where="test")


def test_the_published_schedule() -> None:
    found = config(length_schedule="longcat-flash")
    assert [(phase.sequence_length, phase.rope_theta, phase.token_budget) for phase in found.phases] == [
        (32_768, 5e6, 80_000_000_000),
        (131_072, 1e7, 20_000_000_000),
    ]
    # 80e9 / (32 * 32768) = 76,293.9 and 20e9 / (8 * 131072) = 19,073.5 steps.
    assert [phase.step_count for phase in found.phases] == [76_294, 19_074]


@pytest.mark.parametrize(("reading", "share"), [("of_all", 0.25), ("added", 0.2)])
def test_both_readings_of_a_quarter(reading: str, share: float) -> None:
    assert config(long_document_reading=reading).long_document_share == share


@pytest.mark.parametrize("name", schedule_names())
def test_every_schedule_is_valid_and_has_the_id_of_its_values(name: str) -> None:
    by_name = config(length_schedule=name)
    assert identity_values(by_name) == identity_values(config(**load_schedule(name).config))
    again = config(**json.loads(by_name.model_dump_json()))
    assert again == by_name


def test_values_beside_a_schedule_win() -> None:
    found = config(length_schedule="demo", learning_rate=1e-5)
    assert (found.learning_rate, found.phases[1].sequence_length) == (1e-5, 1024)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"length_schedule": "longcat-flahs"}, "did you mean 'longcat-flash'"),
        ({"length_schedule": "demo", "phases": [PHASE]}, "length_schedule = 'demo' and phases exclude each other"),
        (
            {"phases": [PHASE, PHASE | {"sequence_length": 512}]},
            "phases.1.sequence_length = 512 is below the 600 of the phase before",
        ),
        (
            {"phases": [PHASE, PHASE | {"rope_theta": 1e6}]},
            r"phases.1.rope_theta = 1e\+06 is below the 5e\+06 of the phase before",
        ),
    ],
)
def test_what_is_no_extension_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**values)


def test_show_prints_a_file_for_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["extend", "schedules", "show", "longcat-flash"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# The schedule of LongCat-Flash")
    assert config(**yaml.safe_load(shown)).phases == config(length_schedule="longcat-flash").phases
    assert run(["extend", "schedules", "show", "nothing"]) == 2


def test_list_has_steps_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["extend", "schedules", "list", "--json"]) == 0
    assert [item["name"] for item in json.loads(capsys.readouterr().out)] == schedule_names()
    assert run(["extend", "schedules", "list"]) == 0
    # 24 * 8 * 512 + 12 * 8 * 1024 = 196,608 tokens.
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[:1] == ["demo"]]
    assert line.split()[1:5] == ["2", "1,024", "36", "196,608"]
