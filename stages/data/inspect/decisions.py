"""Decisions made again from stored values, as the filter makes them from texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.config import build_config
from longcat.pipeline.errors import ConfigError
from longcat.stages.data.filter.config import FilterConfig
from longcat.stages.data.filter.rules import EMPTY, NOT_ALLOWED, families, thresholds
from longcat.stages.data.inspect.attributes import Attributes

Reasons = npt.NDArray[np.object_]


def decide(attributes: Attributes, config: FilterConfig) -> Reasons:
    """The reason each row is dropped for under the thresholds of `config`, None where it is kept."""
    reasons = np.full(len(attributes), None, dtype=object)
    stored = attributes.texts("reason")
    open_rows = np.full(len(attributes), True)
    for name, family in families(config):
        if not family.enabled:
            continue
        judged = np.isin(attributes.texts("kind"), family.kinds) & open_rows
        if name == "language" and config.language.allowed:
            languages = attributes.texts("language")
            other = np.array([value is not None for value in languages]) & ~np.isin(languages, config.language.allowed)
            _break(reasons, open_rows, judged & other, NOT_ALLOWED)
        for rule in thresholds(family):
            beyond = breaks(attributes.values(f"{name}.{rule[4:]}"), rule, getattr(family, rule))
            _break(reasons, open_rows, judged & beyond, f"{name}.{rule}")
    # A text is empty from the start, or once C4's line rules have taken out all its lines.
    _break(reasons, open_rows, stored == EMPTY, EMPTY)
    _break(reasons, open_rows, attributes.values("c4.sentences") == 0, EMPTY)
    return reasons


def breaks(values: npt.NDArray[np.float64], rule: str, threshold: float) -> npt.NDArray[np.bool_]:
    """Where values are beyond the threshold of `min_x` or `max_x`; never where they are NaN."""
    return values < threshold if rule.startswith("min_") else values > threshold


def _break(reasons: Reasons, open_rows: npt.NDArray[np.bool_], where: npt.NDArray[np.bool_], reason: str) -> None:
    where = where & open_rows
    reasons[where] = reason
    open_rows[where] = False


def changed(config: FilterConfig, changes: Mapping[str, Any]) -> FilterConfig:
    """`config` with other thresholds.

    Raises:
        ConfigError: a key is unknown, or stored values cannot tell what would change.
    """
    merged = config.model_dump(mode="json")
    for name, values in changes.items():
        if isinstance(values, Mapping) and isinstance(merged.get(name), dict):
            merged[name] = {**merged[name], **values}
        else:
            merged[name] = values
    new = build_config(FilterConfig, merged, "--set")
    for name, values in changes.items():
        for key in values:
            _check_change(name, key, config, new)
    return new


def _check_change(name: str, key: str, before: FilterConfig, after: FilterConfig) -> None:
    old, new = getattr(before, name), getattr(after, name)
    if getattr(old, key) == getattr(new, key):
        return
    hint = f"longcat data filter --set {name}.{key}=... measures anew"
    if not old.enabled:
        raise ConfigError(f"{name} was off, so nothing of it was measured", where=f"{name}.{key}", hint=hint)
    threshold = key.startswith(("min_", "max_")) or (name, key) == ("language", "allowed")
    # Without C4's line rules FineWeb's ratios would be those of other lines.
    switched_off = key == "enabled" and name != "c4"
    # What the beginning dropped was not scored as a whole.
    finer = (name, key) == ("quality", "min_coarse_score") and (new.min_coarse_score or 0) < (old.min_coarse_score or 0)
    if finer or (not threshold and not switched_off):
        raise ConfigError("this changes what is measured, not a threshold", where=f"{name}.{key}", hint=hint)
