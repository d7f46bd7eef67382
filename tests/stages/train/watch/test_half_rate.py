"""The measured rate of bfloat16 and the advice of a run."""

from __future__ import annotations

import logging

import pytest
import torch

from longcat.cli import checks
from longcat.stages.train.watch import half_rate as module

CPU, LOGGER = torch.device("cpu"), logging.getLogger("test-half-rate")


@pytest.fixture(autouse=True)
def nothing_cached() -> None:
    module.half_rate.cache_clear()


def rates(monkeypatch: pytest.MonkeyPatch, bfloat16: float, float32: float) -> None:
    found = {torch.bfloat16: bfloat16, torch.float32: float32}
    monkeypatch.setattr(module, "measured_peak", lambda device, dtype, seconds: found[dtype])


def test_the_rate_is_measured() -> None:
    assert 0.001 < module.half_rate() < 1000


@pytest.mark.parametrize(
    ("dtype", "measured", "told"),
    [
        (torch.bfloat16, 0.4e9, [(logging.WARNING, "0.40 times")]),
        (torch.bfloat16, 2.3e9, []),
        (torch.float32, 2.3e9, [(logging.INFO, "2.3 times")]),
        (torch.float32, 1.2e9, []),
        (torch.float32, 0.4e9, []),
    ],
)
def test_the_slower_dtype_is_told(
    dtype: torch.dtype,
    measured: float,
    told: list[tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rates(monkeypatch, measured, 1e9)
    with caplog.at_level(logging.INFO):
        module.tell_half_rate(dtype, CPU, LOGGER)
    assert len(caplog.records) == len(told)
    for record, (level, words) in zip(caplog.records, told, strict=True):
        assert record.levelno == level and words in record.getMessage()


def test_accelerators_are_not_measured(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "measured_peak", None)
    module.tell_half_rate(torch.bfloat16, torch.device("meta"), LOGGER)
    assert not caplog.records


def test_doctor_names_the_faster_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    rates(monkeypatch, 0.5e9, 1e9)
    check = checks._half_precision()
    assert (check.found, check.remedy) == (
        "matrix products at 0.5 times the rate of float32",
        "train with dtype float32",
    )
