"""The device of a plan: one of the table, or this machine."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from longcat.pipeline.config import build_config
from longcat.pipeline.errors import ConfigError
from longcat.stages.plan.devices import CPU, DEVICES, Device


def find_device(name: str, changes: Mapping[str, Any] | None = None) -> Device:
    """Device of the table, or `cpu`: one core of this machine, measured; with some values replaced.

    Raises:
        ConfigError: the name is unknown, or a changed value does not fit.
    """
    if name != CPU and name not in DEVICES:
        near = difflib.get_close_matches(name, (*DEVICES, CPU), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"devices: {', '.join((*DEVICES, CPU))}"
        raise ConfigError(f"no device {name!r}", where="device", hint=hint)
    if name == CPU:
        from longcat.stages.plan.this_machine import measure_cpu

        device = measure_cpu()
    else:
        device = DEVICES[name]
    return build_config(Device, {**device.model_dump(), **(changes or {})}, "device_values") if changes else device
