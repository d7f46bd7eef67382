"""Thresholds and stop words by language, from the files in `languages/`.

`other.yaml` applies to every language but English, the file of a language on top of it. The rules of English are the
defaults of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel

from longcat.pipeline.yaml_text import parse_yaml

OTHER = "other"
ENGLISH = frozenset({"en", "eng"})
_UNKNOWN = frozenset({"", "und", "mul", "zxx"})

Rules = Mapping[str, Any]


@cache
def rule_files() -> dict[str, dict[str, Any]]:
    """Content of every file by its name, the language's ISO 639-1 code or `other`."""
    folder = files("longcat.stages.data.rules") / "languages"
    found = sorted((entry.name, entry) for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {name.removesuffix(".yaml"): parse_yaml(entry.read_text("utf-8"), name) for name, entry in found}


@cache
def _names() -> dict[str, str]:
    """File name by language code."""
    return {code: name for name, content in rule_files().items() for code in content["codes"]}


def rules_name(language: str | None) -> str | None:
    """File for a language given as ISO 639 code or as language tag (`zh`, `cmn`, `zh-Hant-TW`, `zho_Hans`).

    None for English and for an unknown language, whose rules are those of the configuration.
    """
    code = (language or "").lower().replace("_", "-").partition("-")[0]
    if code in ENGLISH or code in _UNKNOWN:
        return None
    return _names().get(code, OTHER)


@cache
def rules_of(name: str) -> dict[str, Any]:
    """Rules of the file `name` on top of those of `other`, by family."""
    return _merged(rule_files()[OTHER]["rules"], rule_files()[name]["rules"])


def _merged(below: Rules, above: Rules) -> dict[str, Any]:
    merged = {**below, **above}
    for key in below.keys() & above.keys():
        if isinstance(below[key], Mapping):
            merged[key] = _merged(below[key], above[key])
    return merged


def with_rules(config: BaseModel, defaults: BaseModel, rules: Rules) -> dict[str, Any]:
    """Values of `config` with those of `rules` in place of each that equals its default."""
    changed: dict[str, Any] = {}
    for key, value in rules.items():
        own, default = getattr(config, key), getattr(defaults, key)
        if isinstance(own, BaseModel):
            changed[key] = own.model_copy(update=with_rules(own, default, value))
        elif own == default:
            changed[key] = tuple(value) if isinstance(value, list) else value
    return changed


def replaced(config: BaseModel, rules: Rules) -> dict[str, Any]:
    """Values of `config` as a mapping, with those of `rules` in place."""
    values = config.model_dump()
    for key, value in rules.items():
        own = getattr(config, key, None)
        values[key] = replaced(own, value) if isinstance(own, BaseModel) and isinstance(value, Mapping) else value
    return values
