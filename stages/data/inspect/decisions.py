"""Recomputes filter decisions from stored values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from longcat.pipeline.config import build_config
from longcat.pipeline.errors import ConfigError
from longcat.stages.data.inspect.attributes import Attributes
from longcat.stages.data.rules.config import FilterConfig, families
from longcat.stages.data.rules.family import Family, possible_thresholds
from longcat.stages.data.rules.judge import BLOCKED_DOMAIN, BLOCKED_URL, EMPTY, NOT_ALLOWED

NOT_STORED = "this changes what is measured, not a threshold"

Reasons = npt.NDArray[np.object_]


class RowRules:
    """The rules of every row: those for the language of its document."""

    def __init__(self, attributes: Attributes, config: FilterConfig) -> None:
        names = attributes.texts("rules")
        self._rows = len(names)
        self.groups = [(names == name, config.for_rules(name)) for name in dict.fromkeys(names.tolist())]

    def limits(self, name: str, rule: str) -> npt.NDArray[np.float64]:
        """Threshold of each row; NaN where it is disabled."""
        found = np.full(self._rows, np.nan)
        for rows, config in self.groups:
            family = getattr(config, name)
            limit = getattr(family, rule)
            if family.enabled and limit is not None:
                found[rows] = limit
        return found

    def judged(self, name: str, kinds: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
        """Rows whose kind of document the family judges."""
        found = np.zeros(self._rows, dtype=np.bool_)
        for rows, config in self.groups:
            found |= rows & np.isin(kinds, getattr(config, name).kinds)
        return found

    def not_allowed(self, languages: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
        """Rows of a language that is known and not allowed."""
        known = np.array([value is not None for value in languages], dtype=np.bool_)
        found = np.zeros(self._rows, dtype=np.bool_)
        for rows, config in self.groups:
            allowed = config.language.allowed
            if config.language.enabled and allowed:
                found |= rows & known & ~np.isin(languages, allowed)
        return found


def decide(attributes: Attributes, config: FilterConfig) -> Reasons:
    """Drop reason of each row under the thresholds of `config` for its language, None if kept."""
    reasons = np.full(len(attributes), None, dtype=object)
    stored, kinds = attributes.texts("reason"), attributes.texts("kind")
    open_rows = np.full(len(attributes), True)
    rules = RowRules(attributes, config)
    for blocked in (BLOCKED_DOMAIN, BLOCKED_URL):
        _break(reasons, open_rows, stored == blocked, blocked)
    for name, family in families(config):
        judged = rules.judged(name, kinds)
        if name == "language":
            _break(reasons, open_rows, judged & rules.not_allowed(attributes.texts("language")), NOT_ALLOWED)
        for rule in possible_thresholds(family):
            limits = rules.limits(name, rule)
            if not np.isnan(limits).all():
                beyond = breaks(attributes.values(f"{name}.{rule[4:]}"), rule, limits)
                _break(reasons, open_rows, judged & beyond, f"{name}.{rule}")
    # A text is empty from the start, or after C4's line rules have removed all lines.
    _break(reasons, open_rows, stored == EMPTY, EMPTY)
    _break(reasons, open_rows, attributes.values("c4.sentences") == 0, EMPTY)
    return reasons


def breaks(values: npt.NDArray[np.float64], rule: str, limits: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Mask of values beyond the threshold of `min_x` or `max_x` of each row; false for NaN."""
    return values < limits if rule.startswith("min_") else values > limits


def _break(reasons: Reasons, open_rows: npt.NDArray[np.bool_], where: npt.NDArray[np.bool_], reason: str) -> None:
    where = where & open_rows
    reasons[where] = reason
    open_rows[where] = False


def changed(config: FilterConfig, changes: Mapping[str, Any]) -> FilterConfig:
    """`config` with other thresholds.

    Raises:
        ConfigError: a key is unknown, or the effect cannot be computed from stored values.
    """
    merged = config.model_dump(mode="json")
    for name, values in changes.items():
        if isinstance(values, Mapping) and isinstance(merged.get(name), dict):
            merged[name] = {**merged[name], **values}
        else:
            merged[name] = values
    new = build_config(FilterConfig, merged, "--set")
    for name, values in changes.items():
        if not isinstance(values, Mapping):
            raise ConfigError(NOT_STORED, where=name, hint=f"longcat data filter --set {name}=... measures again")
        for key in values:
            _check_change(name, key, config, new)
    return new


def _check_change(name: str, key: str, before: FilterConfig, after: FilterConfig) -> None:
    old, new = getattr(before, name), getattr(after, name)
    if getattr(old, key) == getattr(new, key):
        return
    hint = f"longcat data filter --set {name}.{key}=... measures again"
    if not old.enabled:
        raise ConfigError(f"{name} was disabled, so it was not measured", where=f"{name}.{key}", hint=hint)
    if not isinstance(old, Family) or old.needs_measuring(key, new):
        raise ConfigError(NOT_STORED, where=f"{name}.{key}", hint=hint)
