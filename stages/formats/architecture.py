"""Architecture of a run, from a preset or the known properties of an artifact; no torch."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from longcat.model.config import ModelConfig
from longcat.model.errors import ModelConfigError
from longcat.model.files import read_bounded
from longcat.model.presets import load_preset, preset_names
from longcat.pipeline.errors import ConfigError, IntegrityError

if TYPE_CHECKING:
    from longcat.pipeline.artifact import Artifact
    from longcat.pipeline.plans import PlannedInput

MAX_CONFIG_BYTES = 1 << 20
VOCABULARY_MULTIPLE = 64


def changed_config(config: ModelConfig, changes: Mapping[str, Any], where: str) -> ModelConfig:
    """Copy of `config` with some values replaced.

    Raises:
        ConfigError: a key is unknown or a value does not fit.
    """
    try:
        changed = ModelConfig.from_dict({**config.model_dump(), **changes}, source=where)
        if (reason := changed.unrunnable()) is not None:
            raise ModelConfigError(f"{where}: {reason}")
        return changed
    except ModelConfigError as error:
        raise ConfigError(str(error), hint="see `longcat model describe`") from None


def preset_architecture(preset: str, changes: Mapping[str, Any], vocabulary: int | None) -> ModelConfig:
    """Architecture of a preset for a vocabulary size; None: the preset's, if the size is not known yet.

    Raises:
        ConfigError: the preset is unknown, or a value of `changes` does not fit.
    """
    known = preset_names()
    if preset not in known:
        near = difflib.get_close_matches(preset, known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"presets: {', '.join(known)}"
        raise ConfigError(f"no preset {preset!r}", where="preset", hint=advice)
    wanted = dict(changes)
    if vocabulary is not None:
        wanted.setdefault("vocab_size", -(-vocabulary // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE)
    config = changed_config(load_preset(preset), wanted, "model")
    if vocabulary is not None and config.vocab_size < vocabulary:
        raise ConfigError(f"model.vocab_size = {config.vocab_size}, but the tokenizer has {vocabulary} tokens")
    return config


def architecture_of(checkpoint: PlannedInput) -> ModelConfig | None:
    """Known architecture of a checkpoint; None if unknown before the stage reads it.

    Raises:
        ConfigError: this toolkit cannot run it.
    """
    if checkpoint.artifact is None:
        return checkpoint.forecast.get("model")
    try:
        config = read_architecture(checkpoint.artifact)
    except (ConfigError, IntegrityError):
        return None
    if (reason := config.unrunnable()) is not None:
        raise ConfigError(reason, where=str(checkpoint.artifact.path / "config.json"))
    return config


def read_architecture(checkpoint: Artifact) -> ModelConfig:
    """Architecture of a checkpoint.

    Raises:
        ConfigError: its config.json does not describe a valid model.
        IntegrityError: its config.json cannot be read.
    """
    path = checkpoint.path / "config.json"
    try:
        return ModelConfig.from_dict(json.loads(read_bounded(path, MAX_CONFIG_BYTES)))
    except ModelConfigError as error:
        raise ConfigError(str(error), where=str(path)) from None
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"cannot be read: {error}", where=str(path)) from None
