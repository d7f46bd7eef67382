"""Named architectures: one YAML file each, with a `description` and the `config` under published keys."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError

MAX_PRESET_BYTES = 1 << 16


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_preset(name: str) -> ModelConfig:
    """Load the architecture of a preset.

    Raises:
        ModelConfigError: the preset is unknown; the message lists the known ones.
    """
    return ModelConfig.from_dict(_read(name)["config"], source=f"preset {name}")


def preset_description(name: str) -> str:
    """Description of a preset, one paragraph. Raises ModelConfigError like `load_preset`."""
    return " ".join(_read(name)["description"].split())


def _folder() -> Traversable:
    return resources.files(__name__)


def _read(name: str) -> dict[str, Any]:
    names = preset_names()
    if name not in names:
        raise ModelConfigError(f"preset {name}: unknown, choose one of {', '.join(names)}")
    with _folder().joinpath(f"{name}.yaml").open("rb") as file:
        content: dict[str, Any] = yaml.safe_load(file.read(MAX_PRESET_BYTES))
    return content
