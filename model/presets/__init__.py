"""Named architectures: one YAML file each, with a `description` and the `config` under published keys."""

from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any

import yaml

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError

MAX_PRESET_BYTES = 1 << 16


def preset_names() -> list[str]:
    """The names of all presets, sorted."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load_preset(name: str) -> ModelConfig:
    """The architecture of a preset.

    Raises:
        ModelConfigError: there is no preset of that name; the message lists those there are.
    """
    return ModelConfig.from_dict(_read(name)["config"], source=f"preset {name}")


def preset_description(name: str) -> str:
    """What a preset is for, in one paragraph. Raises ModelConfigError as `load_preset` does."""
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
