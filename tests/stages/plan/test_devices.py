"""The table of devices: published figures, changes, and errors that name the key."""

from __future__ import annotations

import pytest

from longcat.pipeline.errors import ConfigError
from longcat.stages.plan.devices import DEVICES
from longcat.stages.plan.find_device import find_device


def test_h800_is_h100_with_slower_links() -> None:
    h100, h800 = DEVICES["h100"].model_dump(), DEVICES["h800"].model_dump()
    assert {key for key in h100 if h100[key] != h800[key]} == {"name", "node_bandwidth"}
    assert h800["node_bandwidth"] == 400e9 / 2
    assert h800["dollars_per_hour"] == 2.0  # of the report's tables 6 and 7


def test_devices_without_fp8_use_bfloat16() -> None:
    assert DEVICES["a100"].peak("fp8") == DEVICES["a100"].peak("bfloat16") == 312e12
    assert DEVICES["h800"].peak("fp8") == 1978.9e12


def test_values_can_be_replaced() -> None:
    found = find_device("h800", {"dollars_per_hour": 1.5, "memory": 96_000_000_000})
    assert (found.dollars_per_hour, found.memory, found.bfloat16) == (1.5, 96 * 10**9, 989.4e12)


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("h8000", {}, "device: no device 'h8000' (did you mean 'h800'?)"),
        ("gaudi", {}, "devices: a100, h100, h800, h200, b200, mi300x, cpu"),
        ("h800", {"memry": 1}, "device_values: unknown key 'memry', did you mean 'memory'?"),
        ("h800", {"memory": 0}, "memory"),
    ],
)
def test_errors_name_the_key(name: str, changes: dict[str, float], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_device(name, changes)
    assert says in str(caught.value)


def test_this_machine_is_measured() -> None:
    cpu = find_device("cpu")
    assert cpu.memory > 1 << 28
    assert cpu.per_node >= 1
    assert min(cpu.float32, cpu.bfloat16, cpu.memory_bandwidth, cpu.network_bandwidth) > 1e6
